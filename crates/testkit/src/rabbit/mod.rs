//! Private RabbitMQ nodes on loopback, and the faults they can suffer.
//!
//! A node has a folder, ports, a cookie and a port mapper (epmd) of its own: it never meets a
//! broker of the system. Whatever happens to the process that started it, SIGKILL included, the
//! node dies with it.
//!
//! - [`Rabbit::shared`] gives the one node that the tests of a run share; each test takes a
//!   [`Rabbit::vhost`] of its own in it. It allows no fault that others would feel.
//! - [`Rabbit::start`] starts a node that a test may treat as it likes.
//! - [`Cluster::start`] starts several that form one broker.
//!
//! RabbitMQ itself comes from [`install`].
//!
//! ```no_run
//! # use wharf_testkit::rabbit::Rabbit;
//! # async fn example() {
//! let vhost = Rabbit::shared().await.vhost().await;
//! println!("{}", vhost.url()); // amqp://guest:guest@127.0.0.1:21234/test-1-1
//! # }
//! ```

mod cluster;
mod erlang;
mod faults;
mod home;
mod install;
mod node;
mod process;
mod shared;
mod standing;
mod users;
mod vhost;

pub use cluster::Cluster;
pub use home::Error;
pub use install::{Installation, NotInstalled, install};
pub use node::Rabbit;
pub use shared::SHARED_NODE;
pub use standing::{down, up};
pub use vhost::{Connection, Vhost};
