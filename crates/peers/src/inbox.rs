//! What others send to this peer: read from the queues of its broker, given to the handler in order,
//! and answered.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as Turns, mpsc},
    task::consume_budget,
};
use wharf_broker::{BasicProperties, Broker, DeliveryTag, Local, LocalDelivery};

use crate::{
    core::inbound::{Arrived, Greeted, Inbound},
    error::{HandlerError, Untrusted},
    wire::{Epoch, Hello, Packets, ToReceiver, ToSender, reason},
};

/// A sender hears of what is handled at least so often, while there is more to handle.
const RECEIPTS: Duration = Duration::from_micros(500);

/// What a peer's connection is closed with when it breaks the rules.
const PRECONDITION_FAILED: u16 = 406;

/// What one peer sends to this one.
pub(crate) struct Sender {
    name: Arc<str>,
    /// Closes the connections of one that breaks the rules. A handler that does not return must not
    /// keep it alive.
    broker: Weak<Broker>,
    local: Arc<Local>,
    /// Says of each answer whose it is.
    signed: BasicProperties,
    inbound: Mutex<Inbound>,
    /// The queue that this sender reads, once it has said hello. Whoever has this speaks: what is said
    /// is true and in order.
    reply_to: Turns<Option<String>>,
    disconnect_untrusted: bool,
}

/// Packets for the handler, and the message they came in.
pub(crate) struct Batch {
    packets: Packets,
    tag: DeliveryTag,
}

impl Sender {
    pub(crate) fn new(
        name: &str,
        own_name: &str,
        broker: &Arc<Broker>,
        local: &Arc<Local>,
        inbound: Inbound,
        disconnect_untrusted: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            broker: Arc::downgrade(broker),
            local: Arc::clone(local),
            signed: BasicProperties::default().with_user_id(own_name.into()),
            inbound: Mutex::new(inbound),
            reply_to: Turns::new(None),
            disconnect_untrusted,
        })
    }

    /// Packets that came and are not handled.
    pub(crate) fn unhandled(&self) -> usize {
        self.inbound.lock().unhandled()
    }

    /// Takes a message: says welcome, or hands packets to the handler's task. False when that is gone.
    pub(crate) async fn take(
        &self,
        delivery: LocalDelivery,
        handler: &mpsc::UnboundedSender<Batch>,
    ) -> bool {
        // Anybody who may log in may publish here. The broker has looked at what it says of its name.
        let properties = delivery.properties();
        let claimed = properties.user_id().as_ref();
        if claimed.is_none_or(|id| id.as_str() != &*self.name) {
            self.done(delivery.tag());
            return true;
        }
        match ToReceiver::decode(delivery.body()) {
            Ok(ToReceiver::Hello(hello)) => {
                let reply_to = properties
                    .reply_to()
                    .as_ref()
                    .map(|to| to.as_str().to_owned());
                self.done(delivery.tag());
                self.welcome(&hello, reply_to).await;
            }
            Ok(ToReceiver::Packets(packets)) => {
                let arrived = self.inbound.lock().packets(packets);
                match arrived {
                    Ok(Arrived::New(packets)) => {
                        let tag = delivery.tag();
                        return handler.send(Batch { packets, tag }).is_ok();
                    }
                    Ok(Arrived::Known) => self.done(delivery.tag()),
                    Err(violation) => {
                        self.done(delivery.tag());
                        self.disconnect(&violation.to_string());
                    }
                }
            }
            Err(malformed) => {
                self.done(delivery.tag());
                self.disconnect(&malformed.to_string());
            }
        }
        true
    }

    async fn welcome(&self, hello: &Hello, reply_to: Option<String>) {
        let mut current = self.reply_to.lock().await;
        let greeted = self.inbound.lock().hello(hello);
        // A hello that is not answered is said again, on another connection.
        let Greeted::Welcome { welcome, replaces } = greeted else {
            return;
        };
        let before = std::mem::replace(&mut *current, reply_to);
        if let Some(replaced) = replaces {
            self.say(before.as_deref(), &ToSender::Replaced(replaced))
                .await;
        }
        self.say(current.as_deref(), &ToSender::Welcome(welcome))
            .await;
        if self.inbound.lock().has_more() {
            self.tell_all(current.as_deref(), hello.epoch).await;
        }
    }

    /// Tells what was handled of this life of the sender.
    async fn tell(&self, epoch: Epoch) {
        let current = self.reply_to.lock().await;
        self.tell_all(current.as_deref(), epoch).await;
    }

    async fn tell_all(&self, to: Option<&str>, epoch: Epoch) {
        loop {
            let receipt = self.inbound.lock().receipt(epoch);
            let Some(receipt) = receipt else {
                return;
            };
            self.say(to, &ToSender::Receipt(receipt)).await;
            if !self.inbound.lock().has_more() {
                return;
            }
        }
    }

    /// If the queue is gone, so is the connection: the next hello is answered with all of it.
    async fn say(&self, to: Option<&str>, word: &ToSender) {
        if let Some(to) = to {
            let body = Bytes::from(word.encode());
            let _ = self.local.publish("", to, &self.signed, body).await;
        }
    }

    /// The broker may forget the message. If it has gone, it has.
    fn done(&self, tag: DeliveryTag) {
        let _ = self.local.ack(tag, false);
    }

    fn disconnect(&self, why: &str) {
        let Some(broker) = self.broker.upgrade() else {
            return;
        };
        broker.close_connections_of(&self.name, PRECONDITION_FAILED, why);
    }

    /// Gives packets to the handler, one after the other, until no more come.
    pub(crate) async fn handle<H, F>(
        self: Arc<Self>,
        handler: Arc<H>,
        mut batches: mpsc::UnboundedReceiver<Batch>,
    ) where
        H: Fn(Arc<str>, Bytes) -> F + Send + Sync,
        F: Future<Output = Result<(), HandlerError>> + Send,
    {
        let mut told = Instant::now();
        while let Some(Batch { mut packets, tag }) = batches.recv().await {
            let epoch = packets.epoch;
            while let Some(packet) = packets.next() {
                consume_budget().await;
                let size = packet.as_ref().map_or(0, Bytes::len);
                let outcome = match packet {
                    Some(packet) => self.call(&*handler, packet).await,
                    None => Ok(()),
                };
                self.inbound.lock().handled(epoch, size, outcome);
                if packets.len() > 0 && told.elapsed() >= RECEIPTS {
                    self.tell(epoch).await;
                    told = Instant::now();
                }
            }
            // The sender may be waiting with the next: it comes before what the broker is told.
            self.tell(epoch).await;
            told = Instant::now();
            self.done(tag);
        }
    }

    async fn call<H, F>(&self, handler: &H, packet: Bytes) -> Result<(), String>
    where
        H: Fn(Arc<str>, Bytes) -> F + Send + Sync,
        F: Future<Output = Result<(), HandlerError>> + Send,
    {
        let name = Arc::clone(&self.name);
        let call = AssertUnwindSafe(async { handler(name, packet).await });
        let error = match call.catch_unwind().await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => return Err("the handler panicked".to_owned()),
        };
        if self.disconnect_untrusted && error.is::<Untrusted>() {
            self.disconnect("a packet was not to be trusted");
        }
        Err(reason(error.to_string()))
    }
}
