//! Contenders measured beside each other, in rounds of one run.
//!
//! What decides is a ratio taken within one round, never a time: see [`race`](race::race).

pub mod options;

pub mod race;

pub mod lane;

pub mod runtime;

pub mod quiet;

pub mod host;

pub mod verdict;

pub mod table;

pub mod spread;
