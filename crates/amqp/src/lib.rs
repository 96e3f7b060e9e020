//! AMQP 0-9-1 for services that must not lose messages when the network blinks, on
//! [lapin](https://docs.rs/lapin) and [`wharf`].
//!
//! - A [`Cluster`] is the connections to one broker, or to the nodes of one: it dials, notices what
//!   is lost, and dials again, alone, however many wait. Through [`Cluster::channels`] it lends
//!   channels, one holder at a time.
//! - A [`Publisher`] gives each [`Message`] one verdict, and publishes again what was lost.
//! - A [`Consumer`] is a subscription that comes back.
//! - A [`Topology`] is declared on every new connection before anybody uses it.
//! - [`Clients`] are several clusters from one configuration.
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

mod cluster;

pub mod channels;

mod connections;

mod link;

mod io;

mod error;

mod uri;

mod config;

mod endpoint;

pub use channels::{Channel, ChannelPool};
pub use clients::{Clients, ClientsConfig, ClientsError};
pub use cluster::{BuildError, Builder, Cluster};
pub use config::{Config, SettingError};
pub use connections::State;
pub use consumer::Consumer;
pub use endpoint::Endpoint;
pub use error::{ChannelError, ConnectError};
pub use message::{HeaderValue, InvalidMessage, Message};
pub use publisher::{PublishError, Publisher, Receipt};
pub use topology::Topology;
pub use uri::UriError;

pub use lapin;
