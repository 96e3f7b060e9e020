//! An AMQP 0-9-1 broker that lives in your process. It is for tests, examples, programs of one
//! process and small fleets: it starts in milliseconds on a free port, any AMQP client in any
//! language can talk to it, and its faults can be scripted to the frame. It keeps everything in
//! memory (durable is accepted and lasts as long as the broker does) and is not clustered. The way
//! up from here is RabbitMQ: the same program with another URL.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use wharf_broker::Broker;
//!
//! let broker = Broker::builder().user("app", "secret").start().await?;
//! assert!(broker.url("app", "secret").starts_with("amqp://app:secret@127.0.0.1:"));
//! broker.stop_within(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! - `rustls`: TLS for those who connect, and certificates of theirs, with `Builder::tls`.

// In this order: a file imports only from modules that stand below its own, except that a broker
// and its builder know each other.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod hostile;

mod broker;
mod builder;

mod local;

mod listener;

mod faults;

mod codec;

#[cfg(feature = "rustls")]
mod tls;

mod engine;

pub use broker::{Broker, StopError};
pub use builder::{Builder, StartError};
pub use engine::{ConnectionStatus, Disconnected, QueueStatus};
pub use faults::{Amount, Bytes, Faults, Frames, Publish, Publishes, Step};
pub use local::{
    AckError, CommandError, ConsumeOptions, ConsumerEnd, DeclaredQueue, DeliveryTag, Local,
    LocalConsumer, LocalDelivery, PublishError, QueueOptions, TooLong,
};
#[cfg(feature = "rustls")]
pub use tls::Tls;

pub use amq_protocol::{
    protocol::BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
