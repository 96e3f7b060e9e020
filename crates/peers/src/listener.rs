//! Listening, and trying again where the address is taken.

use std::{error::Error, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use wharf_broker::{Broker, ConsumeOptions, Local, LocalConsumer, QueueOptions, StartError};

#[cfg(feature = "rustls")]
use crate::tls::Tls;
use crate::{
    config::Config,
    core::inbound::Inbound,
    error::{HandlerError, ListenerState},
    inbox::{Batch, Sender},
    names,
    wire::{Epoch, largest_body},
};

/// For handlers that are given up to be dropped.
const GRACE: Duration = Duration::from_millis(100);

/// For the other sides to take leave. One that does not could hold up the end for as long as it likes.
const LEAVE: Duration = Duration::from_secs(1);

/// What a listener is told, and by when it has to be done.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Order {
    Listen,
    Stop(Instant),
}

/// A handler, and the runtime it runs on.
pub(crate) struct Listener<H> {
    pub(crate) config: Arc<Config>,
    pub(crate) at: String,
    pub(crate) epoch: Epoch,
    pub(crate) handler: Arc<H>,
    pub(crate) runtime: Handle,
    pub(crate) state: watch::Sender<ListenerState>,
}

/// A broker with the queues of everybody who may send, and those who read and handle them.
struct Open {
    broker: Arc<Broker>,
    senders: Vec<Arc<Sender>>,
    readers: JoinSet<()>,
    handlers: JoinSet<()>,
}

impl<H, F> Listener<H>
where
    H: Fn(Arc<str>, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    /// Listens until it is told to stop. Says how many packets were not handled.
    pub(crate) async fn run(self, mut orders: watch::Receiver<Order>) -> usize {
        let stopped = |order: &Order| matches!(order, Order::Stop(_));
        let open = tokio::select! {
            biased;
            // An owner who is gone gives no orders.
            _ = orders.wait_for(stopped) => None,
            open = self.open() => Some(open),
        };
        let unhandled = match open {
            None => 0,
            Some(open) => {
                let deadline = match orders.wait_for(stopped).await.as_deref() {
                    Ok(Order::Stop(deadline)) => *deadline,
                    _ => Instant::now(),
                };
                open.stop(deadline).await
            }
        };
        self.state.send_replace(ListenerState::Closed);
        unhandled
    }

    /// Tries until the address is free.
    async fn open(&self) -> Open {
        loop {
            match self.broker().await {
                Ok(broker) => match self.serve(broker) {
                    Ok((open, addr)) => {
                        self.state.send_replace(ListenerState::Listening(addr));
                        return open;
                    }
                    Err(cause) => self.wait(cause.into()),
                },
                Err(cause) => self.wait(Arc::new(cause)),
            }
            sleep(self.config.listen_retry).await;
        }
    }

    fn wait(&self, cause: Arc<dyn Error + Send + Sync>) {
        self.state.send_replace(ListenerState::Waiting { cause });
    }

    async fn broker(&self) -> Result<Broker, StartError> {
        let config = &*self.config;
        let senders = config.senders();
        let heartbeat = Duration::from_secs(config.heartbeat.into());
        let message = largest_body(config.max_packet).max(1 << 20);
        // Everybody's window, twice, for what is kept of a message is more than its body.
        let window = 2 * (config.window_bytes + message);
        let mut broker = Broker::builder()
            .listen(&self.at)
            .max_message_size(message as u64)
            .memory((senders.len() + 1) * window + (64 << 20))
            .max_connections(4 * senders.len() + 1024)
            .heartbeat(heartbeat);
        // Not under its own name, in which it answers. A broker without any user has one that all know.
        let nobody = senders.is_empty().then_some(&*config.name);
        for sender in senders.into_iter().chain(nobody) {
            for token in std::iter::once(&config.token).chain(&config.other_token) {
                broker = broker.user(sender, token.reveal());
            }
        }
        #[cfg(feature = "rustls")]
        if let Some(tls) = config.tls.as_ref().and_then(Tls::of_listener) {
            broker = broker.tls(tls);
        }
        broker.start().await
    }

    fn serve(&self, broker: Broker) -> Result<(Open, SocketAddr), Box<dyn Error + Send + Sync>> {
        let addr = broker.addr();
        let broker = Arc::new(broker);
        let local = broker.attach(&self.config.name, "inbox")?;
        let local = Arc::new(local);
        let mut open = Open {
            broker,
            senders: Vec::new(),
            readers: JoinSet::new(),
            handlers: JoinSet::new(),
        };
        for name in self.config.senders() {
            self.receive(name, &local, &mut open)?;
        }
        Ok((open, addr))
    }

    fn receive(
        &self,
        name: &str,
        local: &Arc<Local>,
        open: &mut Open,
    ) -> Result<(), wharf_broker::CommandError> {
        let queue = names::inbox(name);
        // Others publish to it, and do nothing else with it.
        local.declare_queue(&queue, QueueOptions::new().exclusive())?;
        let deliveries = local.consume(&queue, ConsumeOptions::new().exclusive())?;
        let inbound = Inbound::new(self.epoch, self.config.limits());
        let untrusted = self.config.disconnect_untrusted;
        let own_name = &self.config.name;
        let sender = Sender::new(name, own_name, &open.broker, local, inbound, untrusted);
        let (batches, handled) = mpsc::unbounded_channel();
        let handler = Arc::clone(&self.handler);
        open.handlers
            .spawn_on(Arc::clone(&sender).handle(handler, handled), &self.runtime);
        open.readers
            .spawn(read(Arc::clone(&sender), deliveries, batches));
        open.senders.push(sender);
        Ok(())
    }
}

async fn ended(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

async fn read(
    sender: Arc<Sender>,
    mut deliveries: LocalConsumer,
    batches: mpsc::UnboundedSender<Batch>,
) {
    while let Some(delivery) = deliveries.recv().await {
        if !sender.take(delivery, &batches).await {
            return;
        }
    }
}

impl Open {
    /// Takes nothing more, and waits for what was taken. Says how much of that was not handled.
    async fn stop(mut self, deadline: Instant) -> usize {
        // With its reader goes a sender's way to the handler, whose task ends when it is done.
        self.readers.shutdown().await;
        let _ = timeout_at(deadline, ended(&mut self.handlers)).await;
        let unhandled = self.senders.iter().map(|sender| sender.unhandled()).sum();
        self.handlers.abort_all();
        // One that blocks its thread ends when it does, which nobody waits for.
        let _ = timeout(GRACE, ended(&mut self.handlers)).await;
        self.senders.clear();
        if let Some(broker) = Arc::into_inner(self.broker) {
            let left = deadline.saturating_duration_since(Instant::now());
            // Whoever does not answer in time is cut.
            let _ = broker.stop_within(left.min(LEAVE)).await;
        }
        unhandled
    }
}
