//! Each frame finds who it is for.

use std::time::Instant;

use amq_protocol::{
    frame::AMQPContentHeader,
    protocol::{AMQPClass, basic, channel, queue},
};
use bytes::Bytes;

use super::{
    super::{
        ChannelKey, ConnectionId,
        frame::{Frame, Malformed},
    },
    Sessions,
    channel::Channel,
    connection::State,
    content::{Assembly, Partial, Progress, Published},
    exception::{Cause, Exception},
};

const PUBLISH: Cause = (60, 40);

impl Sessions {
    pub(in super::super) fn receive(&mut self, id: ConnectionId, frame: Frame, now: Instant) {
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        connection.last_received = now;
        match (connection.state, frame) {
            (State::Closed, _) => {}
            (State::Header, Frame::ProtocolHeader(version)) => self.protocol_header(id, version),
            (State::Header, _) => self.refuse_protocol(id),
            (_, Frame::Method(0, AMQPClass::Connection(method))) => {
                let cause = cause_of(&AMQPClass::Connection(method.clone()));
                self.connection_method(id, method, cause, now);
            }
            (_, Frame::Heartbeat) | (State::Closing, _) => {}
            (State::Running, Frame::Method(0, method)) => {
                let text = "unexpected method in connection state running";
                let cause = cause_of(&method);
                self.connection_exception(id, &Exception::new(504, text), cause, now);
            }
            (State::Running, frame) => self.channel_frame(id, frame, now),
            (_, _) => self.desk.shut(id),
        }
        self.watch_memory(now);
    }

    pub(in super::super) fn must_wait(
        &mut self,
        id: ConnectionId,
        frame: &Frame,
        now: Instant,
    ) -> bool {
        let Frame::Method(number, method) = frame else {
            return false;
        };
        let mut queue = match method {
            AMQPClass::Basic(basic::AMQPMethod::Get(it)) => it.queue.as_str(),
            AMQPClass::Queue(queue::AMQPMethod::Declare(it)) => it.queue.as_str(),
            _ => return false,
        };
        let Some(connection) = self.desk.connections.get_mut(&id) else {
            return false;
        };
        if connection.state != State::Running {
            return false;
        }
        let host = connection.host;
        if queue.is_empty()
            && let Some(channel) = connection.open_channel(*number)
        {
            queue = &channel.last_queue;
        }
        self.hosts[host].is_overdue(queue, now)
    }

    pub(in super::super) fn malformed(&mut self, id: ConnectionId, what: Malformed, now: Instant) {
        let (code, text, cause) = match what {
            Malformed::ProtocolHeader => return self.refuse_protocol(id),
            Malformed::TooLarge {
                frame,
                payload,
                max,
                ..
            } => {
                let text =
                    format!("type {frame}, all octets = <<>>: {{frame_too_large,{payload},{max}}}");
                (501, text, (0, 0))
            }
            Malformed::FrameEnd { frame, octet, .. } => {
                let text = format!("type {frame}: {{invalid_frame_end_marker,{octet}}}");
                (501, text, (0, 0))
            }
            Malformed::UnknownType { frame, .. } => {
                (501, format!("type {frame}: unknown_frame"), (0, 0))
            }
            Malformed::UnknownMethod { class, method, .. } => {
                let text = format!("unknown method {class}/{method}");
                (503, text, (class, method))
            }
            Malformed::PrefetchSize { size, .. } => {
                (540, format!("prefetch_size!=0 ({size})"), (60, 10))
            }
            Malformed::Syntax { frame, .. } => {
                (501, format!("type {frame}: cannot decode"), (0, 0))
            }
            Malformed::TooDeep { .. } => (502, "tables are nested too deep".to_owned(), (0, 0)),
            Malformed::Heartbeat { .. } => {
                let text = "type 8, all octets = <<>>".to_owned();
                (505, text, (0, 0))
            }
        };
        self.connection_exception(id, &Exception::new(code, text), cause, now);
    }

    /// A frame of an open connection on another channel than zero, or one that has no business
    /// on zero.
    fn channel_frame(&mut self, id: ConnectionId, frame: Frame, now: Instant) {
        let (number, unexpected) = match &frame {
            Frame::Method(number, _) => (*number, None),
            Frame::Header(number, _) => (*number, Some(2)),
            Frame::Body(number, _) => (*number, Some(3)),
            Frame::ProtocolHeader(_) => (0, Some(1)),
            Frame::Heartbeat => return,
        };
        if let (0, Some(kind)) = (number, unexpected) {
            let exception = Exception::new(505, format!("type {kind}"));
            return self.connection_exception(id, &exception, (0, 0), now);
        }
        let key = ChannelKey {
            connection: id,
            channel: number,
        };
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        match connection.channels.get(&number) {
            None => self.first_frame(key, &frame, now),
            Some(channel) if channel.closing => self.frame_after_close(key, &frame, now),
            Some(channel) if channel.assembly.is_some() => self.content_frame(key, frame, now),
            Some(_) => match frame {
                Frame::Method(_, method) => self.method(key, method, now),
                _ => self.expected_method(id, now),
            },
        }
    }

    /// A channel that is not open can only be opened.
    fn first_frame(&mut self, key: ChannelKey, frame: &Frame, now: Instant) {
        let id = key.connection;
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        let (open, max) = (connection.channels.len(), connection.channel_max);
        if max > 0 && open >= usize::from(max) {
            let text = format!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({max})"
            );
            return self.connection_exception(id, &Exception::new(530, text), (0, 0), now);
        }
        match frame {
            Frame::Method(_, AMQPClass::Channel(channel::AMQPMethod::Open(_))) => {
                connection.opened += 1;
                let channel = Channel::new(connection.opened);
                connection.channels.insert(key.channel, channel);
                let ok = channel::AMQPMethod::OpenOk(channel::OpenOk {});
                self.desk.send(id, key.channel, AMQPClass::Channel(ok));
            }
            Frame::Method(_, method) => {
                let exception = Exception::new(504, "expected 'channel.open'");
                self.connection_exception(id, &exception, cause_of(method), now);
            }
            _ => self.expected_method(id, now),
        }
    }

    /// The broker has closed this channel: only the answer counts, or a close that crossed it.
    fn frame_after_close(&mut self, key: ChannelKey, frame: &Frame, now: Instant) {
        let id = key.connection;
        let Frame::Method(_, AMQPClass::Channel(method)) = frame else {
            return;
        };
        match method {
            channel::AMQPMethod::CloseOk(_) => {
                if let Some(connection) = self.desk.connection(id) {
                    connection.channels.remove(&key.channel);
                }
            }
            channel::AMQPMethod::Close(_) => {
                let ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
                self.desk.send(id, key.channel, AMQPClass::Channel(ok));
            }
            channel::AMQPMethod::Open(_) => {
                let exception = Exception::new(504, "second 'channel.open' seen");
                self.connection_exception(id, &exception, (20, 10), now);
            }
            _ => {}
        }
    }

    fn expected_method(&mut self, id: ConnectionId, now: Instant) {
        let text = "expected method frame, got non method frame instead";
        self.connection_exception(id, &Exception::new(505, text), (0, 0), now);
    }

    /// A frame of a message that is not whole.
    fn content_frame(&mut self, key: ChannelKey, frame: Frame, now: Instant) {
        let Some(channel) = self.desk.channel(key.connection, key.channel) else {
            return;
        };
        let result = match (channel.assembly.take(), frame) {
            (Some(Assembly::Header(publish)), Frame::Header(_, header)) => {
                self.content_header(key, publish, header)
            }
            (Some(Assembly::Header(_)), _) => Err(Exception::new(
                505,
                "expected content header for class 60, got non content header frame instead",
            )),
            (Some(Assembly::Body(partial)), Frame::Body(_, body)) => {
                self.content_body(key, partial, body)
            }
            _ => Err(Exception::new(
                505,
                "expected content body, got non content body frame instead",
            )),
        };
        let result = match result {
            Ok(Some(published)) => self.published(key, published, now),
            Ok(None) => Ok(()),
            Err(exception) => Err(exception),
        };
        self.shed(now);
        match result {
            Ok(()) => self.stall_publisher(key.connection),
            Err(exception) => self.exception(key, &exception, PUBLISH, now),
        }
    }

    fn content_header(
        &mut self,
        key: ChannelKey,
        publish: basic::Publish,
        header: Box<AMQPContentHeader>,
    ) -> Result<Option<Published>, Exception> {
        if header.class_id != 60 {
            let class = header.class_id;
            let text =
                format!("expected content header for class 60, got one for class {class} instead");
            return Err(Exception::new(505, text));
        }
        let (size, max) = (header.body_size, self.settings.max_message_size);
        if size > max {
            // RabbitMQ reads the whole body before it says so.
            let text = format!("message size {size} is larger than configured max size {max}");
            return Err(Exception::precondition_failed(text));
        }
        if size == 0 {
            return Ok(Some(Published {
                publish,
                header,
                body: Bytes::new(),
            }));
        }
        let partial = Partial::new(publish, header);
        self.hold(key.connection, 0, partial.weight());
        self.assemble(key, partial);
        Ok(None)
    }

    fn content_body(
        &mut self,
        key: ChannelKey,
        partial: Box<Partial>,
        body: Bytes,
    ) -> Result<Option<Published>, Exception> {
        let before = partial.weight();
        let progress = partial.add(body);
        let held = match &progress {
            Progress::Partial(partial) => partial.weight(),
            Progress::Whole(_) | Progress::Excess => 0,
        };
        self.hold(key.connection, before, held);
        match progress {
            Progress::Whole(published) => Ok(Some(published)),
            Progress::Partial(partial) => {
                self.assemble(key, partial);
                Ok(None)
            }
            Progress::Excess => {
                let text = "content body is larger than its header announced";
                Err(Exception::new(501, text))
            }
        }
    }

    fn assemble(&mut self, key: ChannelKey, partial: Box<Partial>) {
        if let Some(channel) = self.desk.channel(key.connection, key.channel) {
            channel.assembly = Some(Assembly::Body(partial));
        }
    }

    /// A connection holds other bytes than before, in messages that are not whole and in
    /// transactions that are not committed.
    pub(super) fn hold(&mut self, id: ConnectionId, before: usize, after: usize) {
        if let Some(connection) = self.desk.connection(id) {
            connection.pending = connection.pending + after - before;
            self.pending = self.pending + after - before;
        }
    }

    /// All connections together may hold as much as the largest message or the broker's memory
    /// has room for, whichever is more. Beyond, the connection that holds the most has to go:
    /// whoever else is in the middle of a message is not made to pay for it.
    fn shed(&mut self, now: Instant) {
        let largest = usize::try_from(self.settings.max_message_size).unwrap_or(usize::MAX);
        let most = largest.max(self.settings.memory_limit);
        while self.pending > most {
            let holders = self.desk.connections.iter();
            let Some((&id, _)) = holders.max_by_key(|(_, connection)| connection.pending) else {
                return;
            };
            let text = "too many bytes in unfinished messages and transactions";
            self.connection_exception(id, &Exception::new(506, text), PUBLISH, now);
        }
    }
}

/// Class and method, for the exception a method may cause.
pub(super) fn cause_of(method: &AMQPClass) -> Cause {
    (method.get_amqp_class_id(), method.get_amqp_method_id())
}
