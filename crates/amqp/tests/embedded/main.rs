//! Publishing and consuming through faults that are scripted to the frame, on a broker inside the
//! test: whatever frame a fault falls on, nothing is lost and each message has one outcome.

#[path = "../common/mod.rs"]
mod common;
mod stage;

mod choice;
mod closes;
mod confirms;
mod connects;
mod consuming;
mod cuts;
mod sharing;
