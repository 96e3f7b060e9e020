//! What stands between a client in the process and the engine.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame},
    protocol::{AMQPClass, basic, channel, confirm},
    types::{FieldTable, ShortString},
};
use bytes::Bytes;
use parking_lot::Mutex;
use slab::Slab;
use smallvec::SmallVec;
use tokio::sync::{Notify, futures::Notified};

use super::{
    AckError, CommandError, ConsumeOptions, ConsumerEnd, DeliveryTag, LocalDelivery, PublishError,
};
use crate::{
    engine::{
        ConnectionId, ContentMethod, Disconnected, Engine, Farewell, Frame, Output,
        properties_weight,
    },
    listener::{Hub, Kick},
};

/// The channel of commands and publishes, in confirm mode. Nothing is lost with it, so it is opened
/// again when the broker closes it. Those of consumers come after it.
const DESK: u16 = 1;
const MOST_CONSUMERS: usize = (u16::MAX - DESK) as usize;
/// A consumer is alone on its channel.
const CONSUMER_TAG: &str = "local";

/// A connection of the engine, and what came out of it.
///
/// Whoever finds itself woken by the engine (`kick`) drains what the engine has for the whole
/// connection, and wakes those whom it is for. So does every command. What is drained goes on counting
/// against the outbox until it is received.
pub(super) struct Line {
    /// A broker that is dropped leaves nothing behind, whoever still has a client of it.
    hub: Weak<Hub>,
    id: ConnectionId,
    kick: Arc<Kick>,
    farewell: Arc<Farewell>,
    outbox_limit: usize,
    /// The cost of deliveries that were received and of which the engine does not know.
    taken: AtomicUsize,
    /// Wakes those who wait to publish.
    resumed: Notify,
    /// Locked before the engine and never under it: what is drained is sorted in the order in which it
    /// was. Those who wait on this line are woken after it.
    inboxes: Mutex<Inboxes>,
}

#[derive(Default)]
struct Inboxes {
    places: Slab<Inbox>,
    /// How many consumers there were.
    consumers: u64,
    /// Whether the engine took no messages when it was last visited.
    blocked: bool,
    /// Kept for its allocation.
    outputs: Vec<Output>,
}

/// What has come for a consumer.
struct Inbox {
    consumer: u64,
    deliveries: VecDeque<LocalDelivery>,
    bell: Arc<Notify>,
    end: Option<ConsumerEnd>,
}

/// Which consumer, and where its inbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    consumer: u64,
    place: usize,
}

/// A message to be published.
pub(super) struct Content {
    pub(super) publish: basic::Publish,
    pub(super) header: AMQPContentHeader,
    pub(super) body: Bytes,
}

/// What the engine had to say in one visit.
#[derive(Default)]
struct Heard {
    /// The answer on the channel that was asked.
    reply: Option<AMQPClass>,
    /// That channel was closed, with this code and text.
    refused: Option<(u16, String)>,
    returned: bool,
    nacked: bool,
    /// Channels the broker has closed, which are to be told that it is understood.
    closed: SmallVec<[u16; 2]>,
    /// Inboxes that something has come into.
    rung: SmallVec<[usize; 4]>,
}

impl Line {
    pub(super) fn open(hub: &Arc<Hub>, user: &str, name: &str) -> Self {
        let (id, kick, farewell) = hub.attach(user, name);
        let outbox_limit = hub.with(|engine, now| {
            open_desk(engine, id, now);
            engine.outbox_limit()
        });
        Self {
            hub: Arc::downgrade(hub),
            id,
            kick,
            farewell,
            outbox_limit,
            taken: AtomicUsize::new(0),
            resumed: Notify::new(),
            inboxes: Mutex::default(),
        }
    }

    /// Asks on the channel of commands, which has no other answer to give. What is in the way of the
    /// answer is taken away in portions, and others have the engine in between.
    pub(super) fn ask(&self, method: AMQPClass) -> Result<AMQPClass, CommandError> {
        let mut frame = Some(Frame::Method(DESK, method));
        loop {
            let heard = self.visit(None, |_, engine, now| {
                if let Some(frame) = frame.take_if(|it| !engine.must_wait(self.id, it, now)) {
                    engine.receive(self.id, frame, now);
                }
                DESK
            })?;
            if frame.is_none() {
                return heard.answer();
            }
        }
    }

    pub(super) fn publish(&self, content: Content) -> Result<(), PublishError> {
        let Content {
            publish,
            header,
            body,
        } = content;
        let mut blocked = false;
        let mut too_large = false;
        let heard = self.visit(None, |_, engine, now| {
            blocked = engine.is_blocked(self.id);
            // A header is one frame, and has to fit for whoever will consume it.
            too_large = properties_weight(&header.properties) > engine.frame_max(self.id) as usize;
            if blocked || too_large {
                return DESK;
            }
            let publish = AMQPClass::Basic(basic::AMQPMethod::Publish(publish));
            engine.receive(self.id, Frame::Method(DESK, publish), now);
            engine.receive(self.id, Frame::Header(DESK, Box::new(header)), now);
            if !body.is_empty() {
                engine.receive(self.id, Frame::Body(DESK, body), now);
            }
            DESK
        })?;
        if blocked {
            return Err(PublishError::Blocked);
        }
        if too_large {
            let text = "FRAME_ERROR - the properties do not fit into a frame".to_owned();
            return Err(PublishError::Refused { code: 501, text });
        }
        match heard.refused {
            Some((code, text)) => Err(PublishError::Refused { code, text }),
            None if heard.returned => Err(PublishError::Unroutable),
            None if heard.nacked => Err(PublishError::Rejected),
            None => Ok(()),
        }
    }

    pub(super) fn consume(
        &self,
        queue: ShortString,
        options: ConsumeOptions,
    ) -> Result<(Seat, Arc<Notify>), CommandError> {
        let bell = Arc::new(Notify::new());
        let mut seat = None;
        let heard = self.visit(None, |inboxes, engine, now| {
            let Some(new) = inboxes.seat(Arc::clone(&bell)) else {
                return DESK;
            };
            seat = Some(new);
            for method in opening(queue, options) {
                engine.receive(self.id, Frame::Method(new.channel(), method), now);
            }
            new.channel()
        })?;
        let Some(seat) = seat else {
            let text = "NOT_ALLOWED - a connection has no more channels".to_owned();
            return Err(CommandError::Refused { code: 530, text });
        };
        if let Some((code, text)) = heard.refused {
            self.inboxes.lock().places.remove(seat.place);
            return Err(CommandError::Refused { code, text });
        }
        Ok((seat, bell))
    }

    pub(super) fn settle(
        &self,
        delivery: DeliveryTag,
        method: basic::AMQPMethod,
    ) -> Result<(), AckError> {
        let seat = Seat {
            consumer: delivery.consumer,
            place: delivery.place,
        };
        let mut gone = false;
        let heard = self.visit(None, |inboxes, engine, now| {
            gone = !inboxes.is_open(seat);
            if !gone {
                let frame = Frame::Method(seat.channel(), AMQPClass::Basic(method));
                engine.receive(self.id, frame, now);
            }
            seat.channel()
        })?;
        match heard.refused {
            Some((code, text)) => Err(AckError::Refused { code, text }),
            None if gone => Err(AckError::ConsumerGone),
            None => Ok(()),
        }
    }

    pub(super) fn cancel(&self, seat: Seat) -> Result<(), CommandError> {
        self.visit(Some(seat), |inboxes, engine, now| {
            if let Some(inbox) = inboxes.get(seat).filter(|inbox| inbox.end.is_none()) {
                inbox.end = Some(ConsumerEnd::Cancelled);
                let cancel = basic::AMQPMethod::Cancel(basic::Cancel {
                    consumer_tag: CONSUMER_TAG.into(),
                    nowait: true,
                });
                let frame = Frame::Method(seat.channel(), AMQPClass::Basic(cancel));
                engine.receive(self.id, frame, now);
            }
            seat.channel()
        })?;
        Ok(())
    }

    /// The consumer is gone, and has not received deliveries of this cost.
    pub(super) fn close(&self, seat: Seat, unreceived: usize) {
        self.taken.fetch_add(unreceived, Ordering::Relaxed);
        // Where the connection is over there is nothing to close.
        let _ = self.visit(Some(seat), |inboxes, engine, now| {
            let is_open = inboxes.is_open(seat);
            let inbox = inboxes.places.remove(seat.place);
            let left = inbox.deliveries.iter().map(|delivery| delivery.cost).sum();
            self.taken.fetch_add(left, Ordering::Relaxed);
            if is_open {
                let close = channel::AMQPMethod::Close(channel::Close {
                    reply_code: 200,
                    reply_text: ShortString::default(),
                    class_id: 0,
                    method_id: 0,
                });
                let frame = Frame::Method(seat.channel(), AMQPClass::Channel(close));
                engine.receive(self.id, frame, now);
            }
            seat.channel()
        });
    }

    /// The client is gone.
    pub(super) fn leave(&self) {
        // If the broker was first, its word stands.
        let _ = self.farewell.set(Disconnected::ClientGone);
        if let Some(hub) = self.hub.upgrade() {
            hub.disconnect(self.id);
        }
        self.attend(None);
    }

    pub(super) fn disconnected(&self) -> Option<Disconnected> {
        match self.farewell.get() {
            None if self.hub.strong_count() == 0 => Some(Disconnected::BrokerGone),
            said => said.cloned(),
        }
    }

    /// Moves what has come for a consumer into `into`, which is empty.
    pub(super) fn fetch(&self, seat: Seat, into: &mut VecDeque<LocalDelivery>) {
        if let Some(inbox) = self.inboxes.lock().get(seat) {
            std::mem::swap(&mut inbox.deliveries, into);
        }
    }

    pub(super) fn end_of(&self, seat: Seat) -> Option<ConsumerEnd> {
        let end = self.inboxes.lock().get(seat)?.end.clone();
        end.or_else(|| self.disconnected().map(ConsumerEnd::Disconnected))
    }

    /// A delivery of this cost was received. The engine is told of a quarter of its outbox at once,
    /// which is often enough: it hands out more when half of it is free.
    pub(super) fn taken(&self, cost: usize, seat: Seat) {
        let before = self.taken.fetch_add(cost, Ordering::Relaxed);
        if before + cost >= self.outbox_limit / 4 {
            self.attend(Some(seat));
        }
    }

    /// Takes what the engine has, on behalf of this consumer, which looks into its inbox by itself.
    pub(super) fn attend(&self, own: Option<Seat>) {
        // Those whom the end concerns look for it themselves.
        let _ = self.visit(own, |_, _, _| 0);
    }

    /// Until something may have come for this consumer.
    pub(super) async fn attended(&self, seat: Seat, bell: &Notify) {
        tokio::select! {
            biased;
            () = self.kick.kicked() => self.attend(Some(seat)),
            () = bell.notified() => {}
        }
    }

    pub(super) fn resumed(&self) -> Notified<'_> {
        self.resumed.notified()
    }

    /// Until those who wait to publish are woken, or the engine has something.
    pub(super) async fn attended_or(&self, resumed: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = self.kick.kicked() => self.attend(None),
            () = resumed => {}
        }
    }

    /// Lets `command` have the engine and say on which channel it has asked, then takes everything that
    /// the engine has, and wakes those whom it is for, `own` excepted.
    fn visit(
        &self,
        own: Option<Seat>,
        command: impl FnOnce(&mut Inboxes, &mut Engine, Instant) -> u16,
    ) -> Result<Heard, Disconnected> {
        let mut inboxes = self.inboxes.lock();
        let was_blocked = inboxes.blocked;
        let mut heard = Heard::default();
        let mut kicks = None;
        if let Some(hub) = self.hub.upgrade()
            && self.farewell.get().is_none()
        {
            let ((), others) = hub.leaving_kicks(Some(self.id), |engine, now| {
                let asked = command(&mut inboxes, engine, now);
                self.take_all(&mut inboxes, engine, asked, &mut heard, now);
                inboxes.blocked = engine.is_blocked(self.id);
            });
            kicks = Some(others);
        }
        let end = self.disconnected();
        if end.is_some() {
            heard.rung = inboxes.places.iter().map(|(place, _)| place).collect();
        }
        let own = own.map(|seat| seat.place);
        let bells: SmallVec<[Arc<Notify>; 4]> = heard
            .rung
            .iter()
            .filter(|place| Some(**place) != own)
            .filter_map(|place| Some(Arc::clone(&inboxes.places.get(*place)?.bell)))
            .collect();
        let resumed = end.is_some() || (was_blocked && !inboxes.blocked);
        drop(inboxes);
        for bell in bells {
            bell.notify_one();
        }
        if resumed {
            self.resumed.notify_waiters();
        }
        if let Some(kicks) = kicks {
            kicks.serve();
        }
        end.map_or(Ok(heard), Err)
    }

    /// Sorts what the engine has until it has nothing. What nobody waits for makes room at once.
    fn take_all(
        &self,
        inboxes: &mut Inboxes,
        engine: &mut Engine,
        asked: u16,
        heard: &mut Heard,
        now: Instant,
    ) {
        let mut outputs = std::mem::take(&mut inboxes.outputs);
        loop {
            let taken = self.taken.swap(0, Ordering::Relaxed);
            if taken > 0 {
                engine.written(self.id, taken, now);
            }
            engine.drain(self.id, &mut outputs);
            if outputs.is_empty() {
                break;
            }
            for output in outputs.drain(..) {
                let cost = output.cost();
                if !inboxes.sort(output, asked, heard) {
                    self.taken.fetch_add(cost, Ordering::Relaxed);
                }
            }
            for channel in std::mem::take(&mut heard.closed) {
                let ok = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
                engine.receive(self.id, Frame::Method(channel, ok), now);
                if channel == DESK {
                    open_desk(engine, self.id, now);
                }
            }
        }
        inboxes.outputs = outputs;
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("id", &self.id)
            .field("disconnected", &self.disconnected())
            .finish_non_exhaustive()
    }
}

impl Inboxes {
    /// A place for one more consumer, if there is a channel for it.
    fn seat(&mut self, bell: Arc<Notify>) -> Option<Seat> {
        if self.places.len() >= MOST_CONSUMERS {
            return None;
        }
        self.consumers += 1;
        let consumer = self.consumers;
        let place = self.places.insert(Inbox {
            consumer,
            deliveries: VecDeque::new(),
            bell,
            end: None,
        });
        Some(Seat { consumer, place })
    }

    fn get(&mut self, seat: Seat) -> Option<&mut Inbox> {
        let inbox = self.places.get_mut(seat.place);
        inbox.filter(|inbox| inbox.consumer == seat.consumer)
    }

    /// Whether the consumer is there and its channel is not closed.
    fn is_open(&mut self, seat: Seat) -> bool {
        self.get(seat)
            .is_some_and(|inbox| !matches!(inbox.end, Some(ConsumerEnd::Closed { .. })))
    }

    /// Takes note of an output. Whether it waits for somebody to receive it.
    fn sort(&mut self, output: Output, asked: u16, heard: &mut Heard) -> bool {
        let cost = output.cost();
        match output {
            Output::Content {
                channel,
                method:
                    ContentMethod::Deliver {
                        delivery_tag,
                        redelivered,
                        ..
                    },
                message,
            } => {
                let place = place_of(channel);
                let Some(inbox) = self.places.get_mut(place) else {
                    return false;
                };
                inbox.deliveries.push_back(LocalDelivery {
                    message,
                    tag: DeliveryTag {
                        consumer: inbox.consumer,
                        place,
                        number: delivery_tag,
                    },
                    redelivered,
                    cost,
                });
                heard.ring(place);
                return true;
            }
            Output::Content { .. } => heard.returned = true,
            Output::Frame(frame) => {
                if let AMQPFrame::Method(channel, method) = *frame {
                    self.sort_method(channel, method, asked, heard);
                }
            }
            Output::Close => {}
        }
        false
    }

    fn sort_method(&mut self, channel: u16, method: AMQPClass, asked: u16, heard: &mut Heard) {
        match method {
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                let (code, text) = (close.reply_code, String::from(close.reply_text));
                heard.closed.push(channel);
                if channel == asked {
                    heard.refused = Some((code, text.clone()));
                }
                self.end(channel, ConsumerEnd::Closed { code, text }, heard);
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(_)) => {
                self.end(channel, ConsumerEnd::Cancelled, heard);
            }
            AMQPClass::Basic(basic::AMQPMethod::Nack(_)) => heard.nacked = true,
            AMQPClass::Basic(basic::AMQPMethod::Ack(_)) => {}
            method if channel == asked => heard.reply = Some(method),
            _ => {}
        }
    }

    fn end(&mut self, channel: u16, end: ConsumerEnd, heard: &mut Heard) {
        if channel == DESK {
            return;
        }
        let place = place_of(channel);
        if let Some(inbox) = self.places.get_mut(place) {
            inbox.end = Some(end);
            heard.ring(place);
        }
    }
}

impl Seat {
    fn channel(self) -> u16 {
        let channel = self.place + usize::from(DESK) + 1;
        u16::try_from(channel).expect("bug: a seat without a channel")
    }
}

fn place_of(channel: u16) -> usize {
    usize::from(channel) - usize::from(DESK) - 1
}

impl Heard {
    fn ring(&mut self, place: usize) {
        if !self.rung.contains(&place) {
            self.rung.push(place);
        }
    }

    fn answer(self) -> Result<AMQPClass, CommandError> {
        match self.refused {
            Some((code, text)) => Err(CommandError::Refused { code, text }),
            None => Ok(self.reply.expect("bug: a command is answered or refused")),
        }
    }
}

fn open_desk(engine: &mut Engine, id: ConnectionId, now: Instant) {
    let select = confirm::AMQPMethod::Select(confirm::Select { nowait: true });
    for method in [channel_open(), AMQPClass::Confirm(select)] {
        engine.receive(id, Frame::Method(DESK, method), now);
    }
}

/// A channel, its prefetch and its consumer.
fn opening(queue: ShortString, options: ConsumeOptions) -> [AMQPClass; 3] {
    let qos = basic::AMQPMethod::Qos(basic::Qos {
        prefetch_count: options.prefetch,
        global: false,
    });
    let consume = basic::AMQPMethod::Consume(basic::Consume {
        queue,
        consumer_tag: CONSUMER_TAG.into(),
        no_local: false,
        no_ack: options.no_ack,
        exclusive: options.exclusive,
        nowait: true,
        arguments: FieldTable::default(),
    });
    [
        channel_open(),
        AMQPClass::Basic(qos),
        AMQPClass::Basic(consume),
    ]
}

fn channel_open() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))
}
