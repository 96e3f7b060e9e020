//! One broker and the clients that work on it.

use std::any::Any;
use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Error, Queue};
use tokio::time::timeout;
use wharf_testkit::wait::eventually;

use crate::link::{Link, barrier};
use crate::normal::Names;
use crate::operations::*;
use crate::topology::{self, Queues};

/// No reply takes so long, on a machine that is not dead.
const REPLY: Duration = Duration::from_secs(20);

/// Longer than the times to live of what expires in a scenario.
const LIFETIME: Duration = Duration::from_millis(60);

/// One broker, its clients, and what they have seen and not yet told.
pub(crate) struct Side {
    url: String,
    names: Names,
    clients: [Option<Client>; CONNECTIONS],
    observer: Connection,
    queues: Queues,
    messages: usize,
    seen: Vec<String>,
    /// What the broker lives in.
    _home: Box<dyn Any>,
}

struct Client {
    connection: Connection,
    /// On a channel of its own: where the sentinels of the others listen.
    nothing: Queue,
    _quiet: Channel,
    channels: [Option<Link>; CHANNELS],
}

impl Side {
    pub(crate) async fn new(url: String, vhost: &str, home: impl Any) -> Self {
        let observer = connect(&url).await;
        Self {
            observer: observer.unwrap_or_else(|error| panic!("{url}: {error}")),
            url,
            names: Names::new(vhost.to_owned()),
            clients: [None, None],
            queues: Queues::default(),
            messages: 0,
            seen: Vec::new(),
            _home: Box::new(home),
        }
    }

    /// Does one step and tells how it was answered.
    pub(crate) async fn perform(&mut self, step: &Step, scenario: &Scenario) -> String {
        let step = &self.where_it_matters(step);
        let reply = match timeout(REPLY, self.attempt(step, scenario)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                let error = self.cause(step).await.unwrap_or(error);
                format!("refused: {}", self.names.error(&error))
            }
            Err(_) => "no answer".to_owned(),
        };
        if scenario.expires_messages() || step.lets_messages_expire() {
            tokio::time::sleep(LIFETIME).await;
        }
        reply
    }

    /// Verdicts go to a channel that has deliveries to judge, if there is one.
    fn where_it_matters(&self, step: &Step) -> Step {
        let mut step = step.clone();
        let Operation::Traffic(Traffic::Settle { .. } | Traffic::SettleAll { .. }) = step.operation
        else {
            return step;
        };
        let holds = |(connection, channel): &(usize, usize)| {
            let client = self.clients[*connection].as_ref();
            let link = client.and_then(|client| client.channels[*channel].as_ref());
            link.is_some_and(|link| link.held() > 0)
        };
        let all = (0..CONNECTIONS).flat_map(|one| (0..CHANNELS).map(move |other| (one, other)));
        let holding: Vec<_> = all.filter(holds).collect();
        if !holding.is_empty() {
            let place = step.connection * CHANNELS + step.channel;
            (step.connection, step.channel) = holding[place % holding.len()];
        }
        step
    }

    async fn attempt(&mut self, step: &Step, scenario: &Scenario) -> Result<String, Error> {
        if self.is_left_to_luck(step) {
            return Ok("left out".to_owned());
        }
        match &step.operation {
            Operation::CloseChannel => return self.close_channel(step).await,
            Operation::CloseConnection => return self.close_connection(step).await,
            _ => self.open(step).await?,
        }
        let client = self.clients[step.connection].as_mut();
        let link = client.and_then(|client| client.channels[step.channel].as_mut());
        let link = link.expect("bug: it was opened above");
        let (queues, names) = (&mut self.queues, &mut self.names);
        match &step.operation {
            Operation::Topology(operation) => {
                topology::perform(*operation, &link.channel, scenario, queues, names).await
            }
            Operation::Traffic(traffic) => match traffic {
                Traffic::Publish(publish) => {
                    let first = self.messages;
                    self.messages += publish.times;
                    link.publish(publish, first, names).await
                }
                Traffic::Get { queue, no_ack } => {
                    link.get(queues.name(*queue), *no_ack, names).await
                }
                Traffic::Consume(consume) => {
                    link.consume(consume, queues.name(consume.queue), names)
                        .await
                }
                Traffic::Cancel { tag } => link.cancel(*tag).await,
                Traffic::Settle {
                    pick,
                    verdict,
                    multiple,
                } => link.settle(*pick, *verdict, *multiple).await,
                Traffic::SettleAll { verdict } => link.settle_all(*verdict).await,
                Traffic::SettleUnknown { verdict } => link.settle_unknown(*verdict).await,
                Traffic::Recover { requeue } => link.recover(*requeue).await,
            },
            Operation::Mode(mode) => link.change_mode(*mode).await,
            Operation::CloseChannel | Operation::CloseConnection => unreachable!("done above"),
        }
    }

    /// What ends a channel is left out where the outcome is a matter of luck:
    ///
    /// - When a mistake ends a connection, RabbitMQ ends the channel that made it first and the others
    ///   a moment later. These may still be given what that one gave back.
    /// - Queues that hear at once that they get something back race each other, and one may pass it on
    ///   to another, as a dead letter. A channel tells those it consumes one after the other, but the
    ///   rest, and what other channels tell, comes when it comes.
    fn is_left_to_luck(&self, step: &Step) -> bool {
        let Some(client) = &self.clients[step.connection] else {
            return false;
        };
        let is_mistake = step.operation.ends_the_connection();
        let is_alone = matches!(step.operation, Operation::CloseChannel);
        if !is_mistake && !is_alone && !matches!(step.operation, Operation::CloseConnection) {
            return false;
        }
        let links = client.channels.iter().enumerate();
        let ending: Vec<_> = links
            .filter_map(|(place, link)| Some((place == step.channel, link.as_ref()?)))
            .filter(|(is_it, link)| (*is_it || !is_alone) && (link.owes() || link.consumes()))
            .collect();
        if let [(_, link)] = ending[..] {
            return link.owed_to_unconsumed().len() > 1;
        }
        let owed: BTreeSet<_> = ending.iter().flat_map(|(_, link)| link.owed_to()).collect();
        let owes = ending.iter().any(|(is_it, link)| *is_it && link.owes());
        let consumes = ending.iter().any(|(is_it, link)| !is_it && link.consumes());
        owed.len() > 1 || is_mistake && owes && consumes
    }

    async fn close_channel(&mut self, step: &Step) -> Result<String, Error> {
        let client = self.clients[step.connection].as_mut();
        if let Some(link) = client.and_then(|client| client.channels[step.channel].take()) {
            link.channel.close(200, "bye".into()).await?;
        }
        Ok("closed".to_owned())
    }

    async fn close_connection(&mut self, step: &Step) -> Result<String, Error> {
        if let Some(client) = self.clients[step.connection].take() {
            client.connection.close(200, "bye".into()).await?;
        }
        Ok("closed".to_owned())
    }

    /// What ended the step's channel.
    async fn cause(&mut self, step: &Step) -> Option<Error> {
        let client = self.clients[step.connection].as_mut()?;
        let link = client.channels[step.channel].as_mut()?;
        timeout(REPLY, link.cause()).await.ok().flatten()
    }

    async fn open(&mut self, step: &Step) -> Result<(), Error> {
        let client = &mut self.clients[step.connection];
        if client.is_none() {
            *client = Some(Client::connect(&self.url).await?);
        }
        let client = client.as_mut().expect("bug: it was connected above");
        let link = &mut client.channels[step.channel];
        if link.is_none() {
            let channel = client.connection.create_channel().await?;
            *link = Some(Link::new(channel, client.nothing.name().as_str()).await?);
        }
        Ok(())
    }

    /// Waits until the broker has dealt with everything it was sent, on every channel, and takes
    /// in what came of it. Channels that have died are noticed here.
    async fn settle(&mut self) {
        let clients = self.clients.iter().flatten();
        let links = clients.flat_map(|client| client.channels.iter().flatten());
        let answers = links.map(|link| timeout(REPLY, barrier(&link.channel)));
        let mut answers = join_all(answers).await.into_iter();
        for (number, client) in self.clients.iter_mut().enumerate() {
            let Some(Client {
                connection,
                channels,
                ..
            }) = client
            else {
                continue;
            };
            for (place, slot) in channels.iter_mut().enumerate() {
                let Some(link) = slot else { continue };
                let at = format!("{number}.{place}");
                link.take_in(&at, &self.names, &mut self.seen).await;
                if !matches!(answers.next(), Some(Ok(Ok(())))) {
                    *slot = None;
                }
            }
            if !connection.status().connected() {
                *client = None;
            }
        }
    }

    /// What the clients have seen since the last call of `agreed`, and how things stand.
    pub(crate) async fn look(&mut self) -> Vec<String> {
        self.settle().await;
        let mut lines = self.seen.clone();
        lines.sort();
        for (number, client) in self.clients.iter().enumerate() {
            let Some(client) = client else { continue };
            for (place, link) in client.channels.iter().enumerate() {
                let Some(link) = link else { continue };
                lines.push(format!("{number}.{place} is open, {} held", link.held()));
            }
        }
        let (observer, names) = (&self.observer, &self.names);
        let watched = self.queues.watched.iter_mut();
        let depths = watched.map(|(queue, channel)| async move {
            let depth = depth(observer, channel, queue, names).await;
            format!("{}: {depth}", names.text(queue))
        });
        let mut depths = join_all(depths).await;
        depths.sort();
        lines.extend(depths);
        lines
    }

    /// Both sides have seen the same. Queues that are gone are not looked at again until somebody
    /// declares them.
    pub(crate) fn agreed(&mut self, lines: &[String]) {
        self.seen.clear();
        let names = &self.names;
        self.queues.watched.retain(|queue, _| {
            let gone = format!("{}: {GONE}", names.text(queue));
            !lines.contains(&gone)
        });
    }

    /// Ends the clients, orderly.
    pub(crate) async fn disconnect(&mut self) {
        for client in self.clients.iter_mut().filter_map(Option::take) {
            // One that is closed already has what it wanted.
            let _ = timeout(REPLY, client.connection.close(200, "bye".into())).await;
        }
    }

    /// Takes everything out of every queue, in order.
    pub(crate) async fn contents(&self) -> Vec<String> {
        let mut contents = Vec::new();
        for queue in self.queues.watched.keys() {
            let alias = self.names.text(queue);
            let channel = self
                .observer
                .create_channel()
                .await
                .expect("a channel at the end");
            loop {
                let options = BasicGetOptions { no_ack: true };
                let got = channel.basic_get(queue.as_str().into(), options);
                match timeout(REPLY, got).await {
                    Ok(Ok(Some(got))) => {
                        let (left, got) = (got.message_count, self.names.delivery(&got.delivery));
                        contents.push(format!("{alias}: {got}, {left} left"));
                    }
                    Ok(Ok(None)) => break,
                    Ok(Err(error)) => {
                        contents.push(format!("{alias}: {}", self.names.error(&error)));
                        break;
                    }
                    Err(_) => {
                        contents.push(format!("{alias}: no answer"));
                        break;
                    }
                }
            }
        }
        contents
    }

    /// Deletes what the scenario may have left behind.
    pub(crate) async fn clean(mut self) {
        self.disconnect().await;
        let named = (0..QUEUES).map(|queue| format!("q{queue}"));
        let queues: BTreeSet<_> = named.chain(self.queues.server_named).collect();
        for queue in queues {
            // An exclusive queue goes with its connection, which may take RabbitMQ a moment.
            eventually("a queue is gone", REPLY, async || {
                let Ok(channel) = self.observer.create_channel().await else {
                    return false;
                };
                let options = QueueDeleteOptions::default();
                channel
                    .queue_delete(queue.as_str().into(), options)
                    .await
                    .is_ok()
            })
            .await;
        }
        let channel = self
            .observer
            .create_channel()
            .await
            .expect("a channel at the end");
        for exchange in 0..EXCHANGES {
            let options = ExchangeDeleteOptions::default();
            let deleted = channel
                .exchange_delete(exchange_name(exchange).into(), options)
                .await;
            deleted.expect("own exchanges can be deleted");
        }
        let _ = self.observer.close(200, "bye".into()).await;
    }
}

impl Client {
    async fn connect(url: &str) -> Result<Self, Error> {
        let connection = connect(url).await?;
        let quiet = connection.create_channel().await?;
        let (exclusive, none) = (QueueDeclareOptions::exclusive(), FieldTable::default());
        let nothing = quiet.queue_declare("".into(), exclusive, none).await?;
        Ok(Self {
            connection,
            nothing,
            _quiet: quiet,
            channels: [None, None],
        })
    }
}

async fn connect(url: &str) -> Result<Connection, Error> {
    Connection::connect(url, ConnectionProperties::default()).await
}

const GONE: &str = "gone";

async fn depth(
    observer: &Connection,
    channel: &mut Option<Channel>,
    queue: &str,
    names: &Names,
) -> String {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    if channel.is_none() {
        *channel = observer.create_channel().await.ok();
    }
    let Some(open) = channel else {
        return "the observer has no channel".to_owned();
    };
    let asked = open.queue_declare(queue.into(), passive, FieldTable::default());
    match timeout(REPLY, asked).await {
        Ok(Ok(found)) => {
            let (ready, consumers) = (found.message_count(), found.consumer_count());
            format!("{ready} ready, {consumers} consumers")
        }
        Ok(Err(error)) => {
            *channel = None;
            let refusal = names.error(&error);
            if refusal.contains("NOT_FOUND") {
                GONE.to_owned()
            } else {
                refusal
            }
        }
        Err(_) => "no answer".to_owned(),
    }
}
