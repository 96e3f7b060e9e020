//! Queues between named processes.
mod core;
mod wire;
