//! AMQP 0-9-1 for services that must not lose messages when the network blinks, on
//! [lapin](https://docs.rs/lapin) and [`wharf`].
//!
//! A [`Cluster`] is the connections to one broker, or to the nodes of one: it dials, notices what
//! is lost, and dials again, alone, however many wait. Through [`Cluster::channels`] it lends
//! channels, one holder at a time.
//!
//! # Features
//!
//! - `json` (default): messages made of anything serde can serialise.
//! - `serde`: configuration read with serde.
//! - `rustls`: `amqps://`.

// Each file imports only files below it in this list.
pub mod clients;
#[cfg(feature = "serde")]
mod settings;

pub mod consumer;

pub mod publisher;

mod message;

pub mod topology;

pub mod channels;
mod cluster;
mod config;
mod endpoint;
mod error;
mod io;
mod link;

pub use channels::{Channel, ChannelPool};
pub use clients::{Clients, ClientsConfig, ClientsError};
pub use cluster::{BuildError, Builder, Cluster, State};
pub use config::{Config, SettingError};
pub use consumer::Consumer;
pub use endpoint::{Endpoint, UriError};
pub use error::{ChannelError, ConnectError};
pub use topology::Topology;

pub use message::{HeaderValue, InvalidMessage, Message};
pub use publisher::{PublishError, Publisher, Receipt};

pub use lapin;
