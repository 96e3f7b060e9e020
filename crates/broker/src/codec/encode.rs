//! Frames to bytes.

use std::{collections::VecDeque, mem, sync::Arc};

use amq_protocol::{
    frame::{AMQPFrame, WriteContext, gen_frame},
    protocol::{
        AMQPClass,
        basic::{self, gen_properties},
    },
};
use bytes::BufMut;

use super::{BODY, FRAME_END, FRAME_OVERHEAD, HEADER, METHOD};
use crate::engine::{ContentMethod, Message, Output};

const BASIC: u16 = 60;

/// What a connection has to write: first as outputs, then as bytes, so many at a time as a write
/// takes. One large message or a thousand small ones cost the same buffer.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    outputs: VecDeque<Output>,
    /// The message whose body frames are being cut.
    body: Option<Body>,
    closing: bool,
}

#[derive(Debug)]
struct Body {
    channel: u16,
    message: Arc<Message>,
    from: usize,
}

impl Encoder {
    /// More to write, when all that there was before is bytes.
    pub(crate) fn load(&mut self, outputs: Vec<Output>) {
        debug_assert!(self.is_empty(), "bug: there is something left to write");
        self.outputs = VecDeque::from(outputs);
    }

    /// Appends frames to `into` until it holds `enough` bytes (and what the last frame takes more)
    /// or nothing is left.
    pub(crate) fn fill(&mut self, into: &mut Vec<u8>, enough: usize, frame_max: u32) {
        while into.len() < enough {
            if let Some(body) = &mut self.body {
                if body.cut(into, frame_max) {
                    self.body = None;
                }
                continue;
            }
            match self.outputs.pop_front() {
                Some(output) => self.begin(output, into),
                None => {
                    // A burst of outputs took room that the next one need not find.
                    self.outputs = VecDeque::new();
                    return;
                }
            }
        }
    }

    /// Whether everything has been turned into bytes.
    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_none() && self.outputs.is_empty()
    }

    /// Whether the socket is to be shut behind the last byte.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing && self.is_empty()
    }

    fn begin(&mut self, output: Output, into: &mut Vec<u8>) {
        match output {
            Output::Frame(frame) => put_frame(&frame, into),
            Output::Content {
                channel,
                method,
                message,
            } => {
                put_content_method(channel, &method, &message, into);
                put_header(channel, &message, into);
                self.body = Some(Body {
                    channel,
                    message,
                    from: 0,
                });
            }
            Output::Close => {
                self.outputs.clear();
                self.closing = true;
            }
        }
    }
}

impl Body {
    /// Appends one body frame, or none to an empty rest; whether that was all.
    fn cut(&mut self, into: &mut Vec<u8>, frame_max: u32) -> bool {
        let rest = &self.message.body[self.from..];
        if rest.is_empty() {
            return true;
        }
        let size = rest.len().min(payload_max(frame_max));
        put_head(BODY, self.channel, into);
        into.put_u32(u32::try_from(size).expect("bug: a payload is below frame_max"));
        into.put_slice(&rest[..size]);
        into.put_u8(FRAME_END);
        self.from += size;
        size == rest.len()
    }
}

/// Zero, which is no limit, is cut as well: nobody wants to wait behind one frame of gigabytes.
fn payload_max(frame_max: u32) -> usize {
    match frame_max {
        0 => 1 << 20,
        _ => frame_max as usize - FRAME_OVERHEAD,
    }
}

fn put_frame(frame: &AMQPFrame, into: &mut Vec<u8>) {
    if let AMQPFrame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) = frame {
        return put_ack(*channel, ack, into);
    }
    let context = WriteContext::from(mem::take(into));
    // A vector takes every byte; only a writer of bounded size can refuse one.
    (*into, _) = gen_frame(frame)(context)
        .expect("bug: a vector refused bytes")
        .into_inner();
}

/// The one frame that goes out once for each message published one by one.
fn put_ack(channel: u16, ack: &basic::Ack, into: &mut Vec<u8>) {
    put_framed(METHOD, channel, into, |into| {
        put_method(80, into);
        into.put_u64(ack.delivery_tag);
        into.put_u8(u8::from(ack.multiple));
    });
}

fn put_content_method(channel: u16, method: &ContentMethod, message: &Message, into: &mut Vec<u8>) {
    put_framed(METHOD, channel, into, |into| match method {
        ContentMethod::Deliver {
            consumer_tag,
            delivery_tag,
            redelivered,
        } => {
            put_method(60, into);
            put_short_string(consumer_tag, into);
            into.put_u64(*delivery_tag);
            into.put_u8(u8::from(*redelivered));
            put_route(message, into);
        }
        ContentMethod::GetOk {
            delivery_tag,
            redelivered,
            message_count,
        } => {
            put_method(71, into);
            into.put_u64(*delivery_tag);
            into.put_u8(u8::from(*redelivered));
            put_route(message, into);
            into.put_u32(*message_count);
        }
        ContentMethod::Return { code, text } => {
            put_method(50, into);
            into.put_u16(*code);
            put_short_string(text, into);
            put_route(message, into);
        }
    });
}

fn put_header(channel: u16, message: &Message, into: &mut Vec<u8>) {
    put_framed(HEADER, channel, into, |into| {
        into.put_u16(BASIC);
        into.put_u16(0);
        into.put_u64(message.body.len() as u64);
        let context = WriteContext::from(mem::take(into));
        (*into, _) = gen_properties(&message.properties)(context)
            .expect("bug: a vector refused bytes")
            .into_inner();
    });
}

fn put_route(message: &Message, into: &mut Vec<u8>) {
    put_short_string(message.exchange.as_str(), into);
    put_short_string(message.routing_key.as_str(), into);
}

fn put_method(method: u16, into: &mut Vec<u8>) {
    into.put_u16(BASIC);
    into.put_u16(method);
}

fn put_short_string(text: &str, into: &mut Vec<u8>) {
    into.put_u8(u8::try_from(text.len()).expect("bug: a short string of more than 255 bytes"));
    into.put_slice(text.as_bytes());
}

/// A frame around what `payload` appends.
fn put_framed(kind: u8, channel: u16, into: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    put_head(kind, channel, into);
    let length = into.len();
    into.put_u32(0);
    payload(into);
    let size = u32::try_from(into.len() - length - 4).expect("bug: a method of gigabytes");
    into[length..length + 4].copy_from_slice(&size.to_be_bytes());
    into.put_u8(FRAME_END);
}

fn put_head(kind: u8, channel: u16, into: &mut Vec<u8>) {
    into.put_u8(kind);
    into.put_u16(channel);
}
