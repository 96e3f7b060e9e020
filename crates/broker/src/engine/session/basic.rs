//! Each method of an open channel finds its state machine.

use std::time::Instant;

use amq_protocol::protocol::{AMQPClass, access, basic, channel, confirm};

use super::{
    super::{ChannelKey, vhost::Settlement},
    Sessions,
    confirms::Confirms,
    content::Assembly,
    dispatch::cause_of,
    exception::Exception,
};

/// A method did what it does, or the channel or connection is lost.
pub(super) type Outcome = Result<(), Exception>;

impl Sessions {
    pub(super) fn method(&mut self, key: ChannelKey, method: AMQPClass, now: Instant) {
        if let AMQPClass::Basic(basic::AMQPMethod::Publish(publish)) = method {
            if let Some(channel) = self.desk.channel(key.connection, key.channel) {
                channel.assembly = Some(Assembly::Header(publish));
            }
            return;
        }
        let cause = cause_of(&method);
        let outcome = match method {
            AMQPClass::Basic(method) => self.basic(key, method, now),
            AMQPClass::Channel(method) => self.channel_method(key, &method, now),
            AMQPClass::Exchange(method) => self.exchange(key, method),
            AMQPClass::Queue(method) => self.queue(key, method, now),
            AMQPClass::Confirm(confirm::AMQPMethod::Select(method)) => {
                self.confirm_select(key, &method)
            }
            AMQPClass::Tx(method) => self.tx(key, &method, now),
            AMQPClass::Access(access::AMQPMethod::Request(_)) => {
                let ok = access::AMQPMethod::RequestOk(access::RequestOk {});
                self.reply(key, AMQPClass::Access(ok))
            }
            _ => unimplemented_method(),
        };
        if let Err(exception) = outcome {
            self.exception(key, &exception, cause, now);
        }
    }

    fn basic(&mut self, key: ChannelKey, method: basic::AMQPMethod, now: Instant) -> Outcome {
        use basic::AMQPMethod as Method;
        match method {
            Method::Ack(it) => self.settle(key, it.delivery_tag, it.multiple, Settlement::Ack, now),
            Method::Nack(it) => {
                let settlement = refused(it.requeue);
                self.settle(key, it.delivery_tag, it.multiple, settlement, now)
            }
            Method::Reject(it) => {
                let settlement = refused(it.requeue);
                self.settle(key, it.delivery_tag, false, settlement, now)
            }
            Method::Recover(basic::Recover { requeue: true }) => {
                // The answer goes first: what is delivered again comes after it.
                let ok = Method::RecoverOk(basic::RecoverOk {});
                self.reply(key, AMQPClass::Basic(ok))?;
                self.recover(key, now);
                Ok(())
            }
            Method::RecoverAsync(basic::RecoverAsync { requeue: true }) => {
                self.recover(key, now);
                Ok(())
            }
            Method::Recover(_) | Method::RecoverAsync(_) => {
                Err(Exception::new(540, "requeue=false"))
            }
            Method::Qos(it) => self.qos(key, &it, now),
            Method::Consume(it) => self.consume(key, it, now),
            Method::Cancel(it) => self.cancel(key, it, now),
            Method::Get(it) => self.get(key, &it, now),
            _ => unimplemented_method(),
        }
    }

    fn channel_method(
        &mut self,
        key: ChannelKey,
        method: &channel::AMQPMethod,
        now: Instant,
    ) -> Outcome {
        use channel::AMQPMethod as Method;
        match method {
            Method::Close(_) => {
                self.close_by_client(key, now);
                Ok(())
            }
            Method::Open(_) => Err(Exception::new(504, "second 'channel.open' seen")),
            Method::Flow(channel::Flow { active: true }) => {
                let ok = Method::FlowOk(channel::FlowOk { active: true });
                self.reply(key, AMQPClass::Channel(ok))
            }
            Method::Flow(_) => Err(Exception::new(540, "active=false")),
            _ => unimplemented_method(),
        }
    }

    fn confirm_select(&mut self, key: ChannelKey, method: &confirm::Select) -> Outcome {
        let Some(channel) = self.desk.channel(key.connection, key.channel) else {
            return Ok(());
        };
        if channel.transaction.is_some() {
            let text = "cannot switch from tx to confirm mode";
            return Err(Exception::precondition_failed(text));
        }
        channel.confirms.get_or_insert_with(Confirms::default);
        let ok = AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}));
        self.reply_unless(method.nowait, key, ok)
    }

    /// Answers on a channel. Confirms gathered before go first, so that an answer tells a client
    /// that everything published before is decided.
    pub(super) fn reply(&mut self, key: ChannelKey, method: AMQPClass) -> Outcome {
        self.desk.flush_confirms(key.connection, key.channel);
        self.desk.send(key.connection, key.channel, method);
        Ok(())
    }

    pub(super) fn reply_unless(
        &mut self,
        nowait: bool,
        key: ChannelKey,
        method: AMQPClass,
    ) -> Outcome {
        if nowait {
            return Ok(());
        }
        self.reply(key, method)
    }
}

fn refused(requeue: bool) -> Settlement {
    if requeue {
        Settlement::Requeue
    } else {
        Settlement::Discard
    }
}

pub(super) fn unimplemented_method() -> Outcome {
    Err(Exception::new(503, "unimplemented method"))
}
