//! Queues come and go.

use std::{borrow::Cow, sync::Arc, time::Instant};

use slab::Slab;

use super::{
    super::keys::ConnectionId,
    Outlet, QueueInfo, QueueKey, QueueSpec, Refusal, VHost,
    arguments::{OF_QUEUES, QueueArguments, assert_equivalent, assert_same},
    bindings::Ends,
    declare_exchange::stripped,
    queue::Queue,
    ready::Ready,
    refusal::the_queue,
    turns::Turns,
};

impl VHost {
    /// `queue.declare`. An empty name gets one made up.
    ///
    /// # Errors
    ///
    /// 403 for reserved names; 405 for another connection's exclusive queue; 406 if it exists and
    /// differs, for wrong arguments, and at the limit of queues; 540 for types of queue other than
    /// classic.
    pub(crate) fn declare_queue(
        &mut self,
        by: ConnectionId,
        spec: QueueSpec<'_>,
        now: Instant,
    ) -> Result<QueueInfo, Refusal> {
        let name = stripped(spec.name);
        let name = if name.is_empty() {
            Cow::Owned(self.made_up_name())
        } else if name.starts_with("amq.") {
            let text = format!("queue name '{name}' contains reserved prefix 'amq.*'");
            return Err(Refusal::access_refused(text));
        } else {
            name
        };
        let owner = spec.exclusive.then_some(by);
        if let Some(&slot) = self.queue_names.get(&*name) {
            self.assert_equivalent_queue(slot, owner, spec)?;
            return Ok(self.visit(slot, now));
        }
        self.add_queue(&name, owner, spec, now)
    }

    /// `queue.declare` with `passive`.
    ///
    /// # Errors
    ///
    /// 404 if there is no such queue; 405 for another connection's exclusive queue.
    pub(crate) fn check_queue(
        &mut self,
        by: ConnectionId,
        name: &str,
        now: Instant,
    ) -> Result<QueueInfo, Refusal> {
        let slot = self.queue_slot(&stripped(name))?;
        self.assert_open(slot, by)?;
        Ok(self.visit(slot, now))
    }

    /// `queue.delete`: how many messages were ready. That there is no such queue is no error.
    ///
    /// # Errors
    ///
    /// 405 for another connection's exclusive queue; 406 if it is used or not empty and must not
    /// be.
    pub(crate) fn delete_queue(
        &mut self,
        by: ConnectionId,
        name: &str,
        if_unused: bool,
        if_empty: bool,
        outlet: &mut dyn Outlet,
    ) -> Result<usize, Refusal> {
        let name = stripped(name);
        let Some(&slot) = self.queue_names.get(&*name) else {
            return Ok(0);
        };
        self.assert_open(slot, by)?;
        let queue = &self.queues[slot];
        let refuse = |why: &str| {
            let what = the_queue(&name, &self.name);
            Err(Refusal::precondition_failed(format!("{what} {why}")))
        };
        if if_empty && !queue.ready.is_empty() {
            return refuse("not empty");
        }
        if if_unused && !queue.turns.is_empty() {
            return refuse("in use");
        }
        let messages = queue.ready.len();
        self.remove_queue(slot, outlet);
        Ok(messages)
    }

    /// `queue.purge`: how many messages were ready, and are gone. Lent ones stay.
    ///
    /// # Errors
    ///
    /// 404 if there is no such queue; 405 for another connection's exclusive queue.
    pub(crate) fn purge_queue(&mut self, by: ConnectionId, name: &str) -> Result<usize, Refusal> {
        let slot = self.queue_slot(name)?;
        self.assert_open(slot, by)?;
        let ready = std::mem::take(&mut self.queues[slot].ready);
        let messages = ready.len();
        self.abandon(ready, Slab::new());
        Ok(messages)
    }

    /// A connection is gone: so are its exclusive queues.
    pub(crate) fn drop_owner(&mut self, owner: ConnectionId, outlet: &mut dyn Outlet) {
        for slot in self.owned.remove(&owner).unwrap_or_default() {
            self.remove_queue(slot, outlet);
        }
    }

    /// Messages ready and messages lent, if there is such a queue.
    pub(crate) fn queue_depth(&self, name: &str) -> Option<(usize, usize)> {
        let queue = &self.queues[*self.queue_names.get(name)?];
        Some((queue.ready.len(), queue.lent.len()))
    }

    /// Bytes of all messages held with what their places cost: lent ones, dead letters on their way and
    /// those of purged queues included.
    pub(crate) fn held_bytes(&self) -> usize {
        self.store.bytes()
    }

    pub(super) fn queue_slot(&self, name: &str) -> Result<usize, Refusal> {
        let slot = self.queue_names.get(name).copied();
        slot.ok_or_else(|| Refusal::not_found(format!("no {}", the_queue(name, &self.name))))
    }

    /// The slot of a queue that still exists.
    pub(super) fn live_slot(&self, key: QueueKey) -> Option<usize> {
        let slot = key.slot as usize;
        let queue = self.queues.get(slot)?;
        (queue.generation == key.generation).then_some(slot)
    }

    pub(super) fn assert_open(&self, slot: usize, to: ConnectionId) -> Result<(), Refusal> {
        let queue = &self.queues[slot];
        if queue.is_open_to(to) {
            return Ok(());
        }
        Err(self.locked(&queue.name))
    }

    /// Removes a queue with its messages and bindings, and tells its consumers.
    pub(super) fn remove_queue(&mut self, slot: usize, outlet: &mut dyn Outlet) {
        let ends = std::mem::take(&mut self.queues[slot].ends);
        self.remove_bindings(ends.as_destination);
        let queue = self.queues.remove(slot);
        self.forget_arguments(&queue.declared, 1);
        self.queue_names.remove(&queue.name);
        if let Some(due) = queue.deadline {
            self.deadlines.remove(&(due, slot));
        }
        if let Some(owned) = queue.owner.and_then(|owner| self.owned.get_mut(&owner)) {
            owned.remove(&slot);
        }
        self.abandon(queue.ready, queue.lent);
        for consumer in queue.turns.consumers() {
            self.consumers.remove(&consumer);
            outlet.cancelled(consumer);
        }
    }

    fn locked(&self, name: &str) -> Refusal {
        Refusal::resource_locked(format!(
            "cannot obtain exclusive access to locked {}. It could be originally declared on \
             another connection or the exclusive property value does not match that of the \
             original declaration.",
            the_queue(name, &self.name)
        ))
    }

    fn assert_equivalent_queue(
        &self,
        slot: usize,
        owner: Option<ConnectionId>,
        spec: QueueSpec<'_>,
    ) -> Result<(), Refusal> {
        let queue = &self.queues[slot];
        let what = the_queue(&queue.name, &self.name);
        if queue.owner != owner {
            return Err(self.locked(&queue.name));
        }
        let durable = spec.durable && owner.is_none();
        assert_same(queue.durable, durable, "durable", &what)?;
        assert_same(queue.auto_delete, spec.auto_delete, "auto_delete", &what)?;
        assert_equivalent(&queue.declared, spec.arguments, &OF_QUEUES, &what)
    }

    /// The queue is in use at this moment, which puts its expiry off.
    pub(super) fn visit(&mut self, slot: usize, now: Instant) -> QueueInfo {
        self.expire_heads(slot, now);
        let queue = &mut self.queues[slot];
        queue.used = now;
        queue.info()
    }

    fn add_queue(
        &mut self,
        name: &str,
        owner: Option<ConnectionId>,
        spec: QueueSpec<'_>,
        now: Instant,
    ) -> Result<QueueInfo, Refusal> {
        let limit = self.limits.max_queues;
        if self.queues.len() >= limit {
            return Err(Refusal::precondition_failed(format!(
                "cannot declare queue '{name}': queue limit in vhost '{}' ({limit}) is reached",
                self.name
            )));
        }
        let arguments = QueueArguments::parse(spec.arguments, &the_queue(name, &self.name))?;
        self.keep_arguments(spec.arguments, 1, || {
            format!("cannot declare queue '{name}'")
        })?;
        self.generation = self.generation.wrapping_add(1);
        let name: Arc<str> = name.into();
        let slot = self.queues.insert(Queue {
            name: name.clone(),
            generation: self.generation,
            // RabbitMQ: an exclusive queue is never durable.
            durable: spec.durable && owner.is_none(),
            auto_delete: spec.auto_delete,
            owner,
            declared: spec.arguments.clone(),
            turns: Turns::new(arguments.single_active),
            arguments,
            ready: Ready::default(),
            lent: Slab::new(),
            ends: Ends::default(),
            order: 0,
            used: now,
            deadline: None,
            chosen: 0,
        });
        self.queue_names.insert(name, slot);
        if let Some(owner) = owner {
            self.owned.entry(owner).or_default().insert(slot);
        }
        self.watch(slot);
        Ok(self.queues[slot].info())
    }

    /// `amq.gen-` and 22 letters and digits, as RabbitMQ makes them.
    fn made_up_name(&mut self) -> String {
        loop {
            let random = &mut self.random;
            let made_up: String = std::iter::repeat_with(|| random.alphanumeric())
                .take(22)
                .collect();
            let name = format!("amq.gen-{made_up}");
            if !self.queue_names.contains_key(&*name) {
                return name;
            }
        }
    }
}
