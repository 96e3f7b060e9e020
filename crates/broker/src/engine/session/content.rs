//! A message on its way in: `basic.publish`, its header, its body in frames.

use std::mem::size_of;

use amq_protocol::{frame::AMQPContentHeader, protocol::basic};
use bytes::{Bytes, BytesMut};

use super::super::message::properties_weight;

/// What a channel waits for after `basic.publish`.
#[derive(Debug)]
pub(super) enum Assembly {
    /// The content header.
    Header(basic::Publish),
    /// The rest of the body.
    Body(Box<Partial>),
}

/// A message of which some of the body is still to come.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) publish: basic::Publish,
    pub(super) header: Box<AMQPContentHeader>,
    pub(super) body: BytesMut,
    /// What all but the body costs in memory.
    bare_weight: usize,
}

/// A message that is whole.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) publish: basic::Publish,
    pub(super) header: Box<AMQPContentHeader>,
    pub(super) body: Bytes,
}

/// What a body frame led to.
#[derive(Debug)]
pub(super) enum Progress {
    /// More is to come.
    Partial(Box<Partial>),
    Whole(Published),
    /// More came than the header announced.
    Excess,
}

impl Partial {
    pub(super) fn new(publish: basic::Publish, header: Box<AMQPContentHeader>) -> Box<Self> {
        Box::new(Self {
            bare_weight: size_of::<Self>() + properties_weight(&header.properties),
            publish,
            header,
            body: BytesMut::new(),
        })
    }

    /// What it costs in memory.
    pub(super) fn weight(&self) -> usize {
        self.bare_weight + self.body.len()
    }

    /// Adds a body frame. The announced size, which is a claim, reserves nothing: the buffer
    /// grows with what has come. A body in one frame is never copied.
    pub(super) fn add(mut self: Box<Self>, frame: Bytes) -> Progress {
        let size = self.header.body_size;
        let received = (self.body.len() + frame.len()) as u64;
        if received > size {
            return Progress::Excess;
        }
        if received < size {
            self.body.extend_from_slice(&frame);
            return Progress::Partial(self);
        }
        let body = if self.body.is_empty() {
            frame
        } else {
            self.body.extend_from_slice(&frame);
            self.body.freeze()
        };
        Progress::Whole(Published {
            publish: self.publish,
            header: self.header,
            body,
        })
    }
}
