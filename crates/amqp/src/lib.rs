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
//! - `outbox`: messages accepted while the broker is away, [`Publisher::enqueue`].
//! - `durable`: the same with a journal on disk, for which [`MessageCodec`] writes messages.
//! - `tracing`: events with the target `wharf_amqp` and a field `cluster`, the configuration's
//!   [`name`](Config::name): errors for what is refused for good and for panics, warnings for what
//!   is lost or blocked, information about what is there, and there again, and the rest at debug
//!   level. None has a password or a body. The pools of channels tell of themselves as `wharf` does.
//! - `metrics`: the metrics below through the `metrics` facade, all with a label `cluster`, and those
//!   of `wharf` for the pools of channels. The recorder has to be there before the cluster.
//!
//! | metric | kind | labels |
//! |---|---|---|
//! | `wharf_amqp_connections` | gauge | `role`: `publish`, `consume`, `channels`; `state`: `up`, `blocked` |
//! | `wharf_amqp_reconnects_total` | counter | `role` |
//! | `wharf_amqp_in_flight`: messages with a share of a publisher's window | gauge | |
//! | `wharf_amqp_published_total`, `wharf_amqp_republished_total` | counter | |
//! | `wharf_amqp_outcomes_total` | counter | `outcome`: `confirmed`, `returned`, `rejected`, `unknown`, `failed` |
//! | `wharf_amqp_confirm_seconds`: from the place in the window to the confirm | histogram | |
//! | `wharf_amqp_unacked`: deliveries without a verdict | gauge | `queue` |
//! | `wharf_amqp_deliveries_total`, `wharf_amqp_subscriptions_total` | counter | `queue` |
//! | `wharf_amqp_verdicts_total` | counter | `queue`; `verdict`: `ack`, `requeue`, `reject`, `stale` |
//! | `wharf_amqp_panics_total`, `wharf_amqp_timeouts_total`: of handlers | counter | `queue` |
//! | `wharf_amqp_handler_seconds` | histogram | `queue` |

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

mod telemetry;

mod endpoint;

/// The programs in the README, which are compiled with the documentation's tests.
#[cfg(all(doctest, feature = "durable"))]
#[doc = include_str!("../../../README.md")]
struct Readme;

pub use channels::{Channel, ChannelPool};
pub use clients::{Clients, ClientsConfig, ClientsError};
pub use cluster::{BuildError, Builder, Cluster};
pub use config::{Config, SettingError};
pub use connections::State;
pub use consumer::Consumer;
pub use endpoint::Endpoint;
pub use error::{ChannelError, ConnectError};
#[cfg(feature = "durable")]
pub use message::MessageCodec;
pub use message::{HeaderValue, InvalidMessage, Message};
pub use publisher::{
    PublishError, Publisher, PublisherBuilder, PublisherStats, Receipt, Unresolved,
};
pub use topology::Topology;
pub use uri::UriError;

pub use lapin;
#[cfg(feature = "outbox")]
pub use wharf_outbox as outbox;
