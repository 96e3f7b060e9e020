//! What tests of the workspace need around them: a real broker, broken networks, and a verdict.
//!
//! - [`rabbit`]: private RabbitMQ nodes and clusters on loopback, and the faults they can suffer;
//! - [`proxy`]: a TCP proxy that delays, stalls, cuts, resets and refuses;
//! - [`ports`]: ports of loopback that are free and stay so;
//! - [`checker`]: what was sent against what arrived;
//! - [`wait`]: waiting for a condition, with a bound and without luck;
//! - [`usage`]: what the own process holds: threads, memory, allocations;
//! - `certs`: certificates of authorities of one's own, with the feature of that name.
//!
//! It is made for tests: what cannot be carried out panics and says why. Brokers and proxies live
//! in real time, so they do not go together with tokio's paused clock.

#[cfg(feature = "certs")]
pub mod certs;
pub mod checker;
pub mod ports;
pub mod proxy;
pub mod rabbit;
pub mod usage;
pub mod wait;
