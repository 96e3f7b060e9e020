//! The state of one connection, and what it is to write.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use amq_protocol::types::ShortString;

use super::{
    super::{ConnectionId, ConsumerKey, Farewell, Output, interference::Peer},
    channel::Channel,
};

/// Frames before `connection.tune-ok` are at most this large (AMQP 0-9-1, section 4.2.3).
pub(super) const FRAME_MIN_SIZE: u32 = 4_096;

/// ```text
/// Header -> Start -> Tune -> Opening -> Running -> Closing -> Closed
///    \________\_______\_________\__________\_________________/
/// ```
/// Closing: the broker has sent `connection.close` and waits for the answer. Closed: the socket is
/// to be shut once everything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Header,
    Start,
    Tune,
    Opening,
    Running,
    Closing,
    Closed,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) state: State,
    /// The virtual hosts its user may open; every one if absent.
    pub(super) vhosts: Option<Vec<String>>,
    pub(super) capabilities: Capabilities,
    /// Where the end is told, if the client is in the process.
    pub(super) farewell: Option<Arc<Farewell>>,
    /// Which virtual host it opened.
    pub(super) host: usize,
    pub(super) frame_max: u32,
    pub(super) channel_max: u16,
    /// Zero is none.
    pub(super) heartbeat: Duration,
    pub(super) channels: HashMap<u16, Channel>,
    /// How many were ever opened.
    pub(super) opened: u64,
    /// The number of the last consumer.
    pub(super) last_consumer: u64,
    /// Bodies in assembly and messages of open transactions, in bytes.
    pub(super) pending: usize,
    pub(super) outbox: Outbox,
    /// Channels with confirms that are not told yet.
    pub(super) confirming: Vec<u16>,
    /// Consumers refused because the outbox is full.
    pub(super) starved: Vec<ConsumerKey>,
    /// A publisher that is not read from until the alarm is over.
    pub(super) stalled: bool,
    /// Whether it was told so.
    pub(super) blocked_told: bool,
    pub(super) last_received: Instant,
    pub(super) last_sent: Instant,
    /// When the handshake or the closing has to be over.
    pub(super) deadline: Instant,
    /// The time under which it is listed among the timers.
    pub(super) timer: Option<Instant>,
}

/// What the client said it can do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capabilities {
    pub(super) authentication_failure_close: bool,
    pub(super) connection_blocked: bool,
    pub(super) consumer_cancel_notify: bool,
}

/// What waits to be written.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) waiting: Vec<Output>,
    /// The cost of what waits here.
    waiting_cost: usize,
    /// The cost of that and of what was drained and has not reached the socket.
    pub(super) cost: usize,
    /// Whether the connection is listed among the touched.
    pub(super) listed: bool,
}

impl Connection {
    pub(super) fn new(id: ConnectionId, deadline: Instant, now: Instant) -> Self {
        Self {
            peer: Peer {
                connection: id,
                user: None,
                name: None,
            },
            state: State::Header,
            vhosts: None,
            capabilities: Capabilities::default(),
            farewell: None,
            host: 0,
            frame_max: FRAME_MIN_SIZE,
            channel_max: 0,
            heartbeat: Duration::ZERO,
            channels: HashMap::new(),
            opened: 0,
            last_consumer: 0,
            pending: 0,
            outbox: Outbox::default(),
            confirming: Vec::new(),
            starved: Vec::new(),
            stalled: false,
            blocked_told: false,
            last_received: now,
            last_sent: now,
            deadline,
            timer: None,
        }
    }

    /// The channel, if it is open on both sides.
    pub(super) fn open_channel(&mut self, channel: u16) -> Option<&mut Channel> {
        self.channels
            .get_mut(&channel)
            .filter(|channel| !channel.closing)
    }

    /// Notes a consumer that waits for room in the outbox. Those that are gone make place when
    /// the list would grow, so that it stays as long as there are consumers, about.
    pub(super) fn starve(&mut self, consumer: ConsumerKey) {
        if self.starved.len() == self.starved.capacity() {
            let channels = &self.channels;
            self.starved.retain(|it| {
                let channel = channels.get(&it.channel.channel);
                channel.is_some_and(|channel| channel.consumers.contains_key(&it.number))
            });
        }
        self.starved.push(consumer);
    }

    /// When to look at it again.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Closed => None,
            State::Running if self.heartbeat.is_zero() => None,
            State::Running => {
                let send = self.last_sent + self.heartbeat / 2;
                let receive = self.silence_ends();
                Some(receive.map_or(send, |receive| receive.min(send)))
            }
            _ => Some(self.deadline),
        }
    }

    /// When a peer that stays silent is given up: after two heartbeats without a frame (AMQP
    /// 0-9-1, section 4.2.7). A connection that is not read from cannot be silent.
    pub(super) fn silence_ends(&self) -> Option<Instant> {
        (!self.stalled).then(|| self.last_received + self.heartbeat * 2)
    }
}

impl Outbox {
    pub(super) fn push(&mut self, output: Output) {
        let cost = output.cost();
        self.waiting_cost += cost;
        self.cost += cost;
        self.waiting.push(output);
    }

    /// Moves what waits into `into` and returns its cost.
    pub(super) fn drain(&mut self, into: &mut Vec<Output>) -> usize {
        if into.is_empty() {
            std::mem::swap(into, &mut self.waiting);
        } else {
            into.append(&mut self.waiting);
        }
        self.listed = false;
        std::mem::take(&mut self.waiting_cost)
    }
}

/// The connection's name in the client's properties, if it is a text.
pub(super) fn text_of(value: &amq_protocol::types::AMQPValue) -> Option<String> {
    use amq_protocol::types::AMQPValue;
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(ShortString::as_str(text).to_owned()),
        _ => None,
    }
}
