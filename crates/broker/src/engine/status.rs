//! What a broker tells of its connections and queues.

/// A connection that is open, as it was at one moment.
/// [`Broker::open_connections`](crate::Broker::open_connections) gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// Its place in the order in which the broker accepted connections, counted from one. No other
    /// connection ever has it.
    pub nth: u64,
    /// What its client calls itself: `connection_name` of the client properties.
    pub name: Option<String>,
    /// Who has logged in.
    pub user: String,
    /// The virtual host it has opened.
    pub vhost: String,
    /// The numbers of its open channels, in ascending order.
    pub channels: Vec<u16>,
    /// Whether it has published while the broker takes no message, and is not read from until it
    /// does again.
    pub blocked: bool,
}

/// A queue as it was at one moment. [`Broker::queues`](crate::Broker::queues) gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStatus {
    /// Its name.
    pub name: String,
    /// Messages ready for a consumer: those that wait to be delivered, those that came back among
    /// them. Also those that have expired and are not taken away yet. Not those that were published
    /// in a transaction which is not committed.
    pub ready: usize,
    /// Messages that are delivered, or got, and not acknowledged, from the moment the queue gave them
    /// out: the client may not have read them yet. Also those that were acknowledged in a transaction
    /// which is not committed. A message given out to be acknowledged by nobody (`no_ack`) is not
    /// counted any more.
    pub unacked: usize,
    /// Consumers, of all connections, those among them that take nothing at the moment: their
    /// prefetch is used up, their outbox is full, or another one is the single active consumer.
    pub consumers: usize,
    /// The connection whose queue this is, if it is exclusive: its [`ConnectionStatus::nth`].
    pub owner: Option<u64>,
}
