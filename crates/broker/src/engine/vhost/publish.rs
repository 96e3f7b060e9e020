//! A message finds its queues.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use amq_protocol::types::{AMQPValue, FieldTable};

use super::{
    super::message::Message,
    Outlet, Refusal, Routed, VHost,
    arguments::{Overflow, expiration, type_name},
    dead_letters::Reason,
    queue::exceeds,
    ready::Place,
    refusal::the_exchange,
    routing::{CARBON_COPY, Slots},
    store::MessageKey,
};

impl VHost {
    /// `basic.publish`: hands the message to every queue it is routed to.
    ///
    /// # Errors
    ///
    /// 404 if there is no such exchange; 403 if it is internal; 406 for a wrong `expiration`,
    /// `delivery_mode`, `CC` or `BCC`.
    pub(crate) fn publish(
        &mut self,
        message: Arc<Message>,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) -> Result<Routed, Refusal> {
        self.check_publish(&message)?;
        let queues = self.route(&message);
        Ok(self.publish_into(&queues, message, now, outlet))
    }

    /// `basic.publish` in a transaction: the queues that the message is for when the commit comes,
    /// whatever becomes of exchanges and bindings until then.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub(crate) fn find_queues(&mut self, message: &Message) -> Result<Vec<Arc<str>>, Refusal> {
        self.check_publish(message)?;
        let slots = self.route(message);
        let names = slots.iter().map(|slot| self.queues[*slot].name.clone());
        Ok(names.collect())
    }

    /// Hands the message to those of the queues that exist: the second half of
    /// [`find_queues`](Self::find_queues).
    pub(crate) fn publish_to(
        &mut self,
        queues: &[Arc<str>],
        message: Arc<Message>,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) -> Routed {
        let slots = queues.iter().filter_map(|name| self.queue_names.get(name));
        let slots: Slots = slots.copied().collect();
        self.publish_into(&slots, message, now, outlet)
    }

    fn check_publish(&self, message: &Message) -> Result<(), Refusal> {
        let name = message.exchange.as_str();
        if !name.is_empty() {
            let slot = self.exchange_slot(name)?;
            if self.exchanges[slot].internal {
                let what = the_exchange(name, &self.name);
                let text = format!("cannot publish to internal {what}");
                return Err(Refusal::access_refused(text));
            }
        }
        time_to_live(message)?;
        check_copies(message.properties.headers().as_ref())?;
        match message.properties.delivery_mode() {
            None | Some(1 | 2) => Ok(()),
            Some(mode) => Err(Refusal::precondition_failed(format!(
                "invalid message: {{delivery_mode_unknown,{mode}}}"
            ))),
        }
    }

    fn publish_into(
        &mut self,
        queues: &[usize],
        mut message: Arc<Message>,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) -> Routed {
        self.now = now;
        let headers = message.properties.headers().as_ref();
        if headers.is_some_and(|headers| headers.contains_key("BCC")) {
            strip_blind_copies(Arc::make_mut(&mut message));
        }
        let rejected = self.offer(queues, message, now, outlet);
        self.bury(now, outlet);
        Routed {
            queues: queues.len(),
            rejected,
        }
    }

    /// Gives the message a place in each of the queues. Whether one of them rejected it.
    pub(super) fn offer(
        &mut self,
        queues: &[usize],
        message: Arc<Message>,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) -> bool {
        if queues.is_empty() {
            return false;
        }
        let ttl = time_to_live(&message).unwrap_or_default();
        let priority = message.properties.priority().unwrap_or_default();
        let arrival = Arrival {
            body_len: message.body.len(),
            key: self.store.admit(message),
            ttl,
            priority,
        };
        // A place of its own, so that a queue that lets the message go at once does not take it
        // from the next.
        self.store.place(arrival.key);
        let mut rejected = false;
        for &slot in queues {
            rejected |= !self.enqueue(slot, arrival, now, outlet);
        }
        self.store.leave(arrival.key);
        rejected
    }

    /// Gives the message a place in the queue, and to a consumer at once if one accepts. False if
    /// the queue rejects it.
    fn enqueue(
        &mut self,
        slot: usize,
        arrival: Arrival,
        now: Instant,
        outlet: &mut dyn Outlet,
    ) -> bool {
        self.work += 1;
        self.expire_heads(slot, now);
        let is_overdue = self.queues[slot].is_overdue(now);
        if self.is_full(slot, arrival.body_len) {
            if self.queues[slot].arguments.overflow == Overflow::RejectPublishDlx {
                self.store.place(arrival.key);
                self.dead_letter(slot, arrival.key, Reason::MaxLength);
            }
            return false;
        }
        let queue = &mut self.queues[slot];
        let place = Place {
            order: queue.order,
            message: arrival.key,
            body_len: arrival.body_len,
            priority: arrival.priority.min(queue.arguments.max_priority),
            expires: queue.expiry(arrival.ttl, now),
            redelivered: false,
        };
        queue.order += 1;
        queue.ready.push(place);
        self.store.place(arrival.key);
        if !is_overdue {
            self.dispatch(slot, now, outlet);
        }
        self.drop_heads(slot);
        self.expire_heads(slot, now);
        true
    }

    /// Whether the queue takes no more: it rejects what is above its own limits, or it is at the
    /// host's.
    fn is_full(&self, slot: usize, bytes: usize) -> bool {
        let queue = &self.queues[slot];
        let rejects = queue.arguments.overflow != Overflow::DropHead && queue.overflows(1, bytes);
        rejects
            || exceeds(queue.ready.len() + 1, self.limits.max_queue_length)
            || exceeds(
                queue.ready.body_bytes() + bytes,
                self.limits.max_queue_bytes,
            )
    }

    /// Drops messages from the head until the queue is within its limits.
    pub(super) fn drop_heads(&mut self, slot: usize) {
        while self.queues[slot].drops_head() {
            let Some(place) = self.queues[slot].ready.pop() else {
                return;
            };
            self.work += 1;
            self.dead_letter(slot, place.message, Reason::MaxLength);
        }
    }
}

/// A message on its way into queues.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    key: MessageKey,
    body_len: usize,
    ttl: Option<Duration>,
    priority: u8,
}

fn check_copies(headers: Option<&FieldTable>) -> Result<(), Refusal> {
    for name in CARBON_COPY {
        match headers.and_then(|headers| headers.inner().get(name)) {
            None | Some(AMQPValue::FieldArray(_)) => {}
            Some(other) => {
                let kind = type_name(other);
                return Err(Refusal::precondition_failed(format!(
                    "invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}"
                )));
            }
        }
    }
    Ok(())
}

fn strip_blind_copies(message: &mut Message) {
    let properties = std::mem::take(&mut message.properties);
    let mut headers = properties
        .headers()
        .clone()
        .unwrap_or_default()
        .inner()
        .clone();
    headers.remove("BCC");
    message.properties = properties.with_headers(headers.into());
}

fn time_to_live(message: &Message) -> Result<Option<Duration>, Refusal> {
    let text = message.properties.expiration().as_ref();
    text.map(|text| expiration(text.as_str())).transpose()
}
