//! A whole message: checked, routed, returned, confirmed.

use std::{sync::Arc, time::Instant};

use super::{
    super::{
        ChannelKey, Message, Output,
        interference::{Fate, Release},
        output::ContentMethod,
        vhost::Routed,
    },
    Sessions,
    basic::Outcome,
    channel::{Transaction, Uncommitted},
    confirms::{self, Confirms},
    content::Published,
    exception::Exception,
};

const NO_ROUTE: ContentMethod = ContentMethod::Return {
    code: 312,
    text: "NO_ROUTE",
};

/// The header of routing keys that nobody gets to see (RabbitMQ, "Sender-Selected Distribution").
const BLIND_COPIES: &str = "BCC";

/// What a publisher learns of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ack,
    Nack,
}

impl Sessions {
    pub(super) fn published(
        &mut self,
        key: ChannelKey,
        published: Published,
        now: Instant,
    ) -> Outcome {
        let Published {
            publish,
            header,
            body,
        } = published;
        if publish.immediate {
            return Err(Exception::new(540, "immediate=true"));
        }
        let mandatory = publish.mandatory;
        let message = Arc::new(Message {
            exchange: publish.exchange,
            routing_key: publish.routing_key,
            properties: header.properties,
            body,
        });
        self.check_user_id(key, &message)?;
        let Some(channel) = self.desk.channel(key.connection, key.channel) else {
            return Ok(());
        };
        if channel.transaction.is_some() {
            return self.publish_in_transaction(key, message, mandatory);
        }
        let tag = channel.confirms.as_mut().map_or(0, Confirms::number);
        let release = Release {
            connection: key.connection,
            channel: key.channel,
            opened: channel.opened,
            tag,
        };
        let Some(connection) = self.desk.connections.get(&key.connection) else {
            return Ok(());
        };
        let peer = &connection.peer;
        let fate = self.interference.publish(peer, release, &message, now);
        self.meet_fate(key, message, mandatory, tag, fate, now)
    }

    /// The user-id property is nobody else's (RabbitMQ, "Validated User-ID").
    fn check_user_id(&mut self, key: ChannelKey, message: &Message) -> Outcome {
        let Some(claimed) = message.properties.user_id() else {
            return Ok(());
        };
        let connection = self.desk.connection(key.connection);
        let user = connection.and_then(|it| it.peer.user.as_deref());
        let user = user.unwrap_or_default();
        if claimed.as_str() == user {
            return Ok(());
        }
        Err(Exception::precondition_failed(format!(
            "user_id property set to '{claimed}' but authenticated user was '{user}'"
        )))
    }

    fn meet_fate(
        &mut self,
        key: ChannelKey,
        message: Arc<Message>,
        mandatory: bool,
        tag: u64,
        fate: Fate,
        now: Instant,
    ) -> Outcome {
        match fate {
            Fate::Routed => {
                let verdict = self.route(key, message, mandatory, now)?;
                self.confirm(key, tag, verdict);
            }
            Fate::RoutedTwice => {
                let verdict = self.route(key, Arc::clone(&message), mandatory, now)?;
                self.route(key, message, false, now)?;
                self.confirm(key, tag, verdict);
            }
            Fate::Withheld => {
                self.route(key, message, mandatory, now)?;
                self.withhold(key, tag);
                self.release_confirms(now);
            }
            Fate::Nacked => self.confirm(key, tag, Verdict::Nack),
            Fate::Returned => {
                self.give_back(key, message);
                self.confirm(key, tag, Verdict::Ack);
            }
            Fate::ChannelClosed { code, text } => {
                let exception = Exception::verbatim(code, text);
                self.channel_exception(key, &exception, (60, 40), now);
            }
            Fate::ConnectionClosed { code, text } => {
                let exception = Exception::verbatim(code, text);
                self.connection_exception(key.connection, &exception, (60, 40), now);
            }
        }
        Ok(())
    }

    /// Routes the message, and returns it if nobody wants it though somebody must.
    fn route(
        &mut self,
        key: ChannelKey,
        message: Arc<Message>,
        mandatory: bool,
        now: Instant,
    ) -> Result<Verdict, Exception> {
        let Some(connection) = self.desk.connection(key.connection) else {
            return Ok(Verdict::Ack);
        };
        let host = &mut self.hosts[connection.host];
        let returnable = mandatory.then(|| Arc::clone(&message));
        let routed = host.publish(message, now, &mut self.desk)?;
        Ok(self.verdict(key, routed, returnable))
    }

    /// What becomes of a message that has met its queues. A mandatory one goes back if there were
    /// none.
    fn verdict(
        &mut self,
        key: ChannelKey,
        routed: Routed,
        mandatory: Option<Arc<Message>>,
    ) -> Verdict {
        if let Some(message) = mandatory.filter(|_| routed.queues == 0) {
            self.give_back(key, message);
        }
        if routed.rejected {
            Verdict::Nack
        } else {
            Verdict::Ack
        }
    }

    fn give_back(&mut self, key: ChannelKey, mut message: Arc<Message>) {
        if let Some(headers) = message.properties.headers()
            && headers.contains_key(BLIND_COPIES)
        {
            let mut headers = headers.inner().clone();
            headers.remove(BLIND_COPIES);
            let message = Arc::make_mut(&mut message);
            let properties = std::mem::take(&mut message.properties);
            message.properties = properties.with_headers(headers.into());
        }
        let output = Output::Content {
            channel: key.channel,
            method: NO_ROUTE,
            message,
        };
        self.desk.push(key.connection, output);
    }

    fn confirm(&mut self, key: ChannelKey, tag: u64, verdict: Verdict) {
        let Some(connection) = self.desk.connection(key.connection) else {
            return;
        };
        let Some(channel) = connection.channels.get_mut(&key.channel) else {
            return;
        };
        let Some(confirms) = &mut channel.confirms else {
            return;
        };
        match verdict {
            Verdict::Ack => confirms.ack(tag),
            Verdict::Nack => confirms.nack(tag),
        }
        if confirms.is_full() {
            return self.desk.flush_confirms(key.connection, key.channel);
        }
        if !std::mem::replace(&mut channel.confirms_noted, true) {
            connection.confirming.push(key.channel);
            self.desk.touch(key.connection);
        }
    }

    fn withhold(&mut self, key: ChannelKey, tag: u64) {
        let channel = self.desk.channel(key.connection, key.channel);
        if let Some(confirms) = channel.and_then(|it| it.confirms.as_mut()) {
            confirms.withhold(tag);
        }
    }

    /// A withheld confirm goes out by itself.
    pub(super) fn release_confirm(&mut self, release: Release) {
        let channel = self.desk.channel(release.connection, release.channel);
        let channel = channel.filter(|it| it.opened == release.opened);
        let Some(confirms) = channel.and_then(|it| it.confirms.as_mut()) else {
            return;
        };
        if confirms.release(release.tag) {
            let method = confirms::ack(release.tag, false);
            self.desk.send(release.connection, release.channel, method);
        }
    }

    fn publish_in_transaction(
        &mut self,
        key: ChannelKey,
        message: Arc<Message>,
        mandatory: bool,
    ) -> Outcome {
        let Some(connection) = self.desk.connections.get_mut(&key.connection) else {
            return Ok(());
        };
        let queues = self.hosts[connection.host].find_queues(&message)?;
        let uncommitted = Uncommitted {
            message,
            mandatory,
            queues,
        };
        let bytes = uncommitted.weight();
        let channel = connection.open_channel(key.channel);
        if let Some(transaction) = channel.and_then(|it| it.transaction.as_mut()) {
            transaction.messages.push(uncommitted);
        }
        self.hold(key.connection, 0, bytes);
        Ok(())
    }

    /// Hands over what waited for the commit. Whether every queue took it.
    pub(super) fn publish_all(
        &mut self,
        key: ChannelKey,
        transaction: &mut Transaction,
        now: Instant,
    ) -> bool {
        self.hold(key.connection, transaction.bytes(), 0);
        let Some(connection) = self.desk.connection(key.connection) else {
            return true;
        };
        let host = connection.host;
        let mut all = true;
        for it in transaction.messages.drain(..) {
            let returnable = it.mandatory.then(|| Arc::clone(&it.message));
            let routed = self.hosts[host].publish_to(&it.queues, it.message, now, &mut self.desk);
            all &= self.verdict(key, routed, returnable) == Verdict::Ack;
        }
        all
    }
}
