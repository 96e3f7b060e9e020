//! A channel, what goes over it, and what the server expects from it.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Consumer, Error};

use crate::normal::Names;
use crate::operations::*;

pub(crate) struct Link {
    pub(crate) channel: Channel,
    /// A consumer of a queue that nothing comes to. lapin tells consumers why a channel died; a
    /// reply that comes too late for the error is told only that it did.
    sentinel: Consumer,
    consumers: BTreeMap<String, Subscription>,
    held: Vec<Held>,
    /// Settled in a transaction that is not committed.
    in_transaction: Vec<Held>,
    transactional: bool,
    /// A prefetch for the whole channel. RabbitMQ gives room to a queue of its choice then, at
    /// random, so a channel that has one consumes from one queue. And it counts what was got before,
    /// even when that is settled (`notify_limiter` of 3.10.8), so such a channel gets nothing that is
    /// to be settled.
    shares_limit: bool,
}

struct Subscription {
    consumer: Consumer,
    queue: String,
    no_ack: bool,
    delivered: u64,
}

/// A delivery that waits for its verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    /// The consumer's tag, or the queue of a `basic.get`.
    by: String,
    place: u64,
    queue: String,
    tag: u64,
}

impl Link {
    pub(crate) async fn new(channel: Channel, nothing: &str) -> Result<Self, Error> {
        let no_ack = true;
        let options = BasicConsumeOptions {
            no_ack,
            ..BasicConsumeOptions::default()
        };
        let none = FieldTable::default();
        let sentinel = channel
            .basic_consume(nothing.into(), "sentinel".into(), options, none)
            .await?;
        Ok(Self {
            channel,
            sentinel,
            consumers: BTreeMap::new(),
            held: Vec::new(),
            in_transaction: Vec::new(),
            transactional: false,
            shares_limit: false,
        })
    }

    /// Deliveries that wait for their verdict.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// The queues that would get deliveries back if the channel ended.
    pub(crate) fn owed_to(&self) -> impl Iterator<Item = &str> {
        let all = self.held.iter().chain(&self.in_transaction);
        all.map(|held| held.queue.as_str())
    }

    /// Those of them that the channel does not consume, or no longer.
    pub(crate) fn owed_to_unconsumed(&self) -> BTreeSet<&str> {
        let consumed = |queue: &&str| self.consumers.values().any(|it| it.queue == *queue);
        self.owed_to().filter(|queue| !consumed(queue)).collect()
    }

    pub(crate) fn consumes(&self) -> bool {
        !self.consumers.is_empty()
    }

    pub(crate) fn owes(&self) -> bool {
        self.owed_to().next().is_some()
    }

    /// What ended the channel; waits for it.
    pub(crate) async fn cause(&mut self) -> Option<Error> {
        match self.sentinel.next().await {
            Some(Err(error)) => Some(error),
            _ => None,
        }
    }

    pub(crate) async fn publish(
        &self,
        publish: &Publish,
        first: usize,
        names: &Names,
    ) -> Result<String, Error> {
        let options = BasicPublishOptions {
            mandatory: publish.mandatory,
            immediate: publish.immediate,
        };
        let exchange = publish.exchange.map(exchange_name).unwrap_or_default();
        let published = (0..publish.times).map(|place| {
            let (exchange, key) = (exchange.as_str().into(), publish.key.into());
            let (body, properties) = (publish.body(first + place), publish.properties(place));
            async move {
                let sent = self
                    .channel
                    .basic_publish(exchange, key, options, body.as_bytes(), properties)
                    .await?;
                sent.await
            }
        });
        // Written first: lapin lets other frames overtake those of a publish that still waits.
        let confirmed = join_all(published).await;
        barrier(&self.channel).await?;
        Ok(verdicts(confirmed, names))
    }

    pub(crate) async fn get(
        &mut self,
        queue: String,
        no_ack: bool,
        names: &Names,
    ) -> Result<String, Error> {
        if self.shares_limit && !no_ack {
            return Ok("left out".to_owned());
        }
        let options = BasicGetOptions { no_ack };
        let got = self
            .channel
            .basic_get(queue.as_str().into(), options)
            .await?;
        let Some(got) = got else {
            return Ok("empty".to_owned());
        };
        if !no_ack {
            self.held.push(Held {
                by: format!("get {queue}"),
                place: got.delivery_tag,
                queue,
                tag: got.delivery_tag,
            });
        }
        let left = got.message_count;
        Ok(format!("{}, {left} left", names.delivery(&got.delivery)))
    }

    pub(crate) async fn consume(
        &mut self,
        consume: &Consume,
        queue: String,
        names: &mut Names,
    ) -> Result<String, Error> {
        let tag = consume.tag.map(|tag| format!("t{tag}")).unwrap_or_default();
        let in_use = self.consumers.contains_key(&tag) && !consume.reuse;
        if in_use || self.shares_limit && self.consumes_from_others(&queue) {
            return Ok("left out".to_owned());
        }
        let options = BasicConsumeOptions {
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            ..BasicConsumeOptions::default()
        };
        let (name, wanted) = (queue.as_str().into(), tag.as_str().into());
        let consumer = self
            .channel
            .basic_consume(name, wanted, options, consume.arguments())
            .await?;
        let given = consumer.tag();
        let made_up = given.as_str().starts_with("amq.ctag-");
        let tag = if tag.is_empty() {
            names.made_up("tag", given.as_str())
        } else {
            tag
        };
        let subscription = Subscription {
            consumer,
            queue,
            no_ack: consume.no_ack,
            delivered: 0,
        };
        self.consumers.insert(tag, subscription);
        Ok(format!("consuming, with a tag made up: {made_up}"))
    }

    fn consumes_from_others(&self, queue: &str) -> bool {
        let mut consumers = self.consumers.values();
        consumers.any(|subscription| subscription.queue != queue)
    }

    /// Whether something that was got waits for its verdict.
    fn has_got(&self) -> bool {
        let mut all = self.held.iter().chain(&self.in_transaction);
        all.any(|held| !self.consumers.contains_key(&held.by))
    }

    pub(crate) async fn cancel(&mut self, tag: usize) -> Result<String, Error> {
        let tag = format!("t{tag}");
        let options = BasicCancelOptions::default();
        self.channel
            .basic_cancel(tag.as_str().into(), options)
            .await?;
        self.consumers.remove(&tag);
        Ok("cancelled".to_owned())
    }

    pub(crate) async fn settle(
        &mut self,
        pick: usize,
        verdict: Verdict,
        multiple: bool,
    ) -> Result<String, Error> {
        self.held.sort();
        if self.held.is_empty() {
            return Ok("left out".to_owned());
        }
        let picked = self.held[pick % self.held.len()].clone();
        // What several queues gave to one channel comes in an order that is theirs to race for,
        // so what `multiple` would cover is a matter of luck then.
        let one_queue = self.held.iter().all(|held| held.queue == picked.queue);
        let multiple = multiple && one_queue && !matches!(verdict, Verdict::Reject { .. });
        let covers = |held: &Held| held.tag == picked.tag || (multiple && held.tag < picked.tag);
        let (settled, held) = self.held.drain(..).partition(covers);
        self.held = held;
        self.note(settled);
        self.tell(picked.tag, verdict, multiple).await
    }

    pub(crate) async fn settle_all(&mut self, verdict: Verdict) -> Result<String, Error> {
        let settled = std::mem::take(&mut self.held);
        self.note(settled);
        self.tell(0, verdict, true).await
    }

    pub(crate) async fn settle_unknown(&self, verdict: Verdict) -> Result<String, Error> {
        self.tell(1_000_000, verdict, false).await
    }

    fn note(&mut self, settled: Vec<Held>) {
        if self.transactional {
            self.in_transaction.extend(settled);
        }
    }

    async fn tell(&self, tag: u64, verdict: Verdict, multiple: bool) -> Result<String, Error> {
        let channel = &self.channel;
        match verdict {
            Verdict::Ack => channel.basic_ack(tag, BasicAckOptions { multiple }).await?,
            Verdict::Requeue | Verdict::Discard => {
                let requeue = verdict == Verdict::Requeue;
                let options = BasicNackOptions { multiple, requeue };
                channel.basic_nack(tag, options).await?;
            }
            Verdict::Reject { requeue } => {
                channel
                    .basic_reject(tag, BasicRejectOptions { requeue })
                    .await?;
            }
        }
        barrier(channel).await?;
        Ok("settled".to_owned())
    }

    pub(crate) async fn recover(&mut self, requeue: bool) -> Result<String, Error> {
        self.channel
            .basic_recover(BasicRecoverOptions { requeue })
            .await?;
        self.held.clear();
        Ok("recovered".to_owned())
    }

    pub(crate) async fn change_mode(&mut self, mode: Mode) -> Result<String, Error> {
        let channel = &self.channel;
        match mode {
            Mode::Qos { count, global } => {
                let first = self.consumers.values().next();
                let mixed = first.is_some_and(|first| self.consumes_from_others(&first.queue));
                if global && (mixed || self.has_got()) {
                    return Ok("left out".to_owned());
                }
                self.shares_limit |= global;
                channel.basic_qos(count, BasicQosOptions { global }).await?;
            }
            Mode::ConfirmSelect => {
                channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await?;
            }
            Mode::TxSelect => {
                channel.tx_select().await?;
                self.transactional = true;
            }
            Mode::TxCommit => {
                channel.tx_commit().await?;
                self.in_transaction.clear();
            }
            Mode::TxRollback => {
                channel.tx_rollback().await?;
                self.held.append(&mut self.in_transaction);
            }
        }
        Ok("changed".to_owned())
    }

    /// Takes in deliveries, cancellations and returns that have arrived.
    pub(crate) async fn take_in(&mut self, at: &str, names: &Names, seen: &mut Vec<String>) {
        let mut ended = Vec::new();
        for (tag, subscription) in &mut self.consumers {
            while let Some(event) = subscription.consumer.next().now_or_never() {
                let Some(Ok(delivery)) = event else {
                    ended.push(tag.clone());
                    break;
                };
                let place = subscription.delivered;
                subscription.delivered += 1;
                seen.push(format!(
                    "{at} {tag} {place:06}: {}",
                    names.delivery(&delivery)
                ));
                if !subscription.no_ack {
                    self.held.push(Held {
                        by: tag.clone(),
                        place,
                        queue: subscription.queue.clone(),
                        tag: delivery.delivery_tag,
                    });
                }
            }
        }
        for tag in ended {
            seen.push(format!("{at} {tag} ended"));
            self.consumers.remove(&tag);
        }
        // With confirms on, lapin hands returns out with the confirms.
        if !self.channel.status().confirm() && self.channel.status().connected() {
            let returned = self.channel.wait_for_confirms().await.unwrap_or_default();
            let place = seen.len();
            seen.extend(returned.iter().enumerate().map(|(nth, message)| {
                format!("{at} {:06}: {}", place + nth, names.returned(message))
            }));
        }
    }
}

fn verdicts(confirmed: Vec<Result<Confirmation, Error>>, names: &Names) -> String {
    let mut verdicts = Vec::new();
    let mut returns = Vec::new();
    for confirmation in confirmed {
        verdicts.push(match &confirmation {
            Ok(Confirmation::Ack(_)) => "ack".to_owned(),
            Ok(Confirmation::Nack(_)) => "nack".to_owned(),
            Ok(Confirmation::NotRequested) => "sent".to_owned(),
            Err(error) => names.error(error),
        });
        let returned = confirmation.ok().and_then(Confirmation::take_message);
        returns.extend(returned.map(|message| names.returned(&message)));
    }
    // Which confirm of several lapin hangs a return on is its own affair.
    returns.sort();
    format!("{verdicts:?} {returns:?}")
}

/// Waits until the broker has dealt with what was sent before on this channel. It says why the
/// channel is closed if that is what came of it.
pub(crate) async fn barrier(channel: &Channel) -> Result<(), Error> {
    channel
        .channel_flow(ChannelFlowOptions { active: true })
        .await?;
    Ok(())
}
