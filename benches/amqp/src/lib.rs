//! Publishers and consumers to be measured, and the brokers they are measured on.

pub mod consume;

pub mod publish;

pub mod embedded;

pub mod node;
