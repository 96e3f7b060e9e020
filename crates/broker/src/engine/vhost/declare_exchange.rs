//! Exchanges and bindings come and go.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use amq_protocol::types::FieldTable;
use slab::Slab;

use super::{
    super::keys::ConnectionId,
    BindingSpec, DestinationName, Epoch, ExchangeSpec, Limits, Refusal, VHost,
    arguments::{alternate_exchange, assert_equivalent, assert_same},
    bindings::{Binding, BindingKey, Bindings, Ends},
    destinations::Destination,
    headers,
    refusal::the_exchange,
    routing::{Exchange, Kind},
    store::Store,
};

/// A binding keeps its arguments, twice their encoding, and what an exchange matches headers with.
const COPIES_OF_A_BINDING: usize = 3;

/// The exchanges every virtual host has (`rabbit_vhost`): name, type, internal. The default
/// exchange has no name and is no entry of its own: it is every queue's name.
const PREDECLARED: [(&str, Kind, bool); 6] = [
    ("amq.direct", Kind::Direct, false),
    ("amq.fanout", Kind::Fanout, false),
    ("amq.topic", Kind::Topic, false),
    ("amq.headers", Kind::Headers, false),
    ("amq.match", Kind::Headers, false),
    ("amq.rabbitmq.trace", Kind::Topic, true),
];

impl VHost {
    /// A virtual host with the predeclared exchanges. `seed` decides the names it makes up.
    pub(crate) fn new(name: &str, limits: Limits, epoch: Epoch, seed: u64) -> Self {
        let mut host = Self {
            name: name.into(),
            limits,
            epoch,
            random: fastrand::Rng::with_seed(seed),
            exchanges: Slab::new(),
            exchange_names: HashMap::new(),
            bindings: Bindings::default(),
            queues: Slab::new(),
            queue_names: HashMap::new(),
            generation: 0,
            owned: HashMap::new(),
            consumers: HashMap::new(),
            store: Store::default(),
            deadlines: BTreeSet::new(),
            dead: VecDeque::new(),
            fresh_dead: Vec::new(),
            hops: 0,
            descendants: 0,
            remains: VecDeque::new(),
            argument_bytes: 0,
            work: 0,
            routings: 0,
            now: epoch.instant,
        };
        let none = FieldTable::default();
        for (name, kind, internal) in PREDECLARED {
            let spec = ExchangeSpec {
                name,
                kind: "",
                durable: true,
                auto_delete: false,
                internal,
                arguments: &none,
            };
            host.add_exchange(name, kind, spec, None);
        }
        host
    }

    /// `exchange.declare`.
    ///
    /// # Errors
    ///
    /// 503 for an unknown type; 403 for the default exchange and reserved names; 406 if it exists
    /// and differs, for a wrong argument, and at the limit of exchanges.
    pub(crate) fn declare_exchange(&mut self, spec: ExchangeSpec<'_>) -> Result<(), Refusal> {
        let Some(kind) = Kind::named(spec.kind) else {
            let why = if spec.kind.is_empty() {
                "invalid"
            } else {
                "unknown"
            };
            let text = format!("{why} exchange type '{}'", spec.kind);
            return Err(Refusal::command_invalid(text));
        };
        let name = stripped(spec.name);
        refuse_default(&name)?;
        let what = the_exchange(&name, &self.name);
        if let Some(&slot) = self.exchange_names.get(&*name) {
            return self.exchanges[slot].assert_equivalent(kind, spec, &what);
        }
        if name.starts_with("amq.") {
            let text = format!("exchange name '{name}' contains reserved prefix 'amq.*'");
            return Err(Refusal::access_refused(text));
        }
        let alternate = alternate_exchange(spec.arguments, &what)?;
        let limit = self.limits.max_exchanges;
        if self.exchanges.len() >= limit {
            return Err(Refusal::precondition_failed(format!(
                "cannot declare exchange '{name}': exchange limit in vhost '{}' ({limit}) is \
                 reached",
                self.name
            )));
        }
        self.keep_arguments(spec.arguments, 1, || {
            format!("cannot declare exchange '{name}'")
        })?;
        self.add_exchange(&name, kind, spec, alternate);
        Ok(())
    }

    /// `exchange.declare` with `passive`.
    ///
    /// # Errors
    ///
    /// 404 if there is no such exchange; 403 for the default exchange.
    pub(crate) fn check_exchange(&self, name: &str) -> Result<(), Refusal> {
        let name = stripped(name);
        refuse_default(&name)?;
        self.exchange_slot(&name).map(drop)
    }

    /// `exchange.delete`. That there is no such exchange is no error.
    ///
    /// # Errors
    ///
    /// 403 for predeclared exchanges; 406 if it is used and must not be.
    pub(crate) fn delete_exchange(&mut self, name: &str, if_unused: bool) -> Result<(), Refusal> {
        let name = stripped(name);
        refuse_default(&name)?;
        let what = the_exchange(&name, &self.name);
        if name.starts_with("amq.") {
            let text = format!("deletion of system {what} not allowed");
            return Err(Refusal::access_refused(text));
        }
        let Some(&slot) = self.exchange_names.get(&*name) else {
            return Ok(());
        };
        if if_unused && !self.exchanges[slot].ends.as_source.is_empty() {
            return Err(Refusal::precondition_failed(format!("{what} in use")));
        }
        self.remove_exchanges(vec![slot]);
        Ok(())
    }

    /// `queue.bind` and `exchange.bind`.
    ///
    /// # Errors
    ///
    /// 403 for the default exchange; 404 if an end is missing; 405 for another connection's
    /// exclusive queue; 406 for wrong arguments and at the limit of bindings.
    pub(crate) fn bind(&mut self, by: ConnectionId, spec: BindingSpec<'_>) -> Result<(), Refusal> {
        let source = self.exchange_slot(&bindable(spec)?)?;
        let to = self.destination(spec.destination)?;
        self.validate_binding(source, spec.arguments)?;
        self.assert_bindable(to, by)?;
        self.add_binding(source, to, spec)
    }

    /// `queue.unbind` and `exchange.unbind`. That there is no such binding is no error.
    ///
    /// # Errors
    ///
    /// 403 for the default exchange; 405 for another connection's exclusive queue.
    pub(crate) fn unbind(
        &mut self,
        by: ConnectionId,
        spec: BindingSpec<'_>,
    ) -> Result<(), Refusal> {
        let source = self.exchange_slot(&bindable(spec)?);
        if let (Ok(source), Ok(to)) = (source, self.destination(spec.destination)) {
            let binding = Binding::new(source, to, spec.routing_key, spec.arguments);
            if let Some(key) = self.bindings.find(&binding) {
                self.assert_bindable(to, by)?;
                self.remove_bindings([key]);
            }
        }
        Ok(())
    }

    /// Takes bindings away, and with the last binding of an auto-delete exchange the exchange.
    pub(super) fn remove_bindings(&mut self, keys: impl IntoIterator<Item = BindingKey>) {
        let mut unused = Vec::new();
        for key in keys {
            unused.extend(self.remove_binding(key));
        }
        self.remove_exchanges(unused);
    }

    pub(super) fn exchange_slot(&self, name: &str) -> Result<usize, Refusal> {
        let slot = self.exchange_names.get(name).copied();
        slot.ok_or_else(|| Refusal::not_found(format!("no {}", the_exchange(name, &self.name))))
    }

    fn destination(&self, name: DestinationName<'_>) -> Result<Destination, Refusal> {
        Ok(match name {
            DestinationName::Queue(name) => Destination::Queue(self.queue_slot(&stripped(name))?),
            DestinationName::Exchange(name) => {
                Destination::Exchange(self.exchange_slot(&stripped(name))?)
            }
        })
    }

    fn assert_bindable(&self, to: Destination, by: ConnectionId) -> Result<(), Refusal> {
        match to {
            Destination::Queue(slot) => self.assert_open(slot, by),
            Destination::Exchange(_) => Ok(()),
        }
    }

    fn add_exchange(
        &mut self,
        name: &str,
        kind: Kind,
        spec: ExchangeSpec<'_>,
        alternate: Option<String>,
    ) {
        let name: Arc<str> = name.into();
        let slot = self.exchanges.insert(Exchange {
            name: name.clone(),
            kind,
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            internal: spec.internal,
            declared: spec.arguments.clone(),
            alternate,
            ends: Ends::default(),
            routes: kind.routes(),
            chosen: 0,
        });
        self.exchange_names.insert(name, slot);
    }

    fn validate_binding(&self, source: usize, arguments: &FieldTable) -> Result<(), Refusal> {
        match self.exchanges[source].kind {
            Kind::Headers => headers::validate(arguments),
            Kind::Direct | Kind::Fanout | Kind::Topic => Ok(()),
        }
    }

    fn add_binding(
        &mut self,
        source: usize,
        to: Destination,
        spec: BindingSpec<'_>,
    ) -> Result<(), Refusal> {
        let binding = Binding::new(source, to, spec.routing_key, spec.arguments);
        if self.bindings.find(&binding).is_some() {
            return Ok(());
        }
        let limit = self.limits.max_bindings;
        if self.bindings.len() >= limit {
            return Err(Refusal::precondition_failed(format!(
                "cannot bind to {}: binding limit in vhost '{}' ({limit}) is reached",
                the_exchange(&self.exchanges[source].name, &self.name),
                self.name
            )));
        }
        let from = self.exchanges[source].name.clone();
        let host = self.name.clone();
        self.keep_arguments(spec.arguments, COPIES_OF_A_BINDING, || {
            format!("cannot bind to {}", the_exchange(&from, &host))
        })?;
        self.exchanges[source]
            .routes
            .insert(&binding, spec.arguments);
        let key = self.bindings.insert(binding, spec.arguments.clone());
        self.exchanges[source].ends.as_source.insert(key);
        self.ends_of(to).as_destination.insert(key);
        Ok(())
    }

    /// Takes one binding away. Its source, if that goes with it.
    fn remove_binding(&mut self, key: BindingKey) -> Option<usize> {
        let (binding, arguments) = self.bindings.remove(key);
        self.forget_arguments(&arguments, COPIES_OF_A_BINDING);
        self.ends_of(binding.destination)
            .as_destination
            .remove(&key);
        let source = &mut self.exchanges[binding.source];
        source.routes.remove(&binding, &arguments);
        source.ends.as_source.remove(&key);
        (source.auto_delete && source.ends.as_source.is_empty()).then_some(binding.source)
    }

    fn ends_of(&mut self, destination: Destination) -> &mut Ends {
        match destination {
            Destination::Queue(slot) => &mut self.queues[slot].ends,
            Destination::Exchange(slot) => &mut self.exchanges[slot].ends,
        }
    }

    /// Removes exchanges with all their bindings, and whatever goes with those.
    fn remove_exchanges(&mut self, mut slots: Vec<usize>) {
        while let Some(slot) = slots.pop() {
            let Some(exchange) = self.exchanges.get_mut(slot) else {
                continue;
            };
            exchange.auto_delete = false;
            let name = exchange.name.clone();
            let ends = std::mem::take(&mut exchange.ends);
            // A binding of the exchange to itself is at both ends.
            let keys: BTreeSet<_> = (ends.as_source.into_iter())
                .chain(ends.as_destination)
                .collect();
            for key in keys {
                slots.extend(self.remove_binding(key));
            }
            let exchange = self.exchanges.remove(slot);
            self.forget_arguments(&exchange.declared, 1);
            self.exchange_names.remove(&name);
        }
    }
}

impl Exchange {
    fn assert_equivalent(
        &self,
        kind: Kind,
        spec: ExchangeSpec<'_>,
        what: &str,
    ) -> Result<(), Refusal> {
        assert_same(self.kind, kind, "type", what)?;
        assert_same(self.durable, spec.durable, "durable", what)?;
        assert_same(self.auto_delete, spec.auto_delete, "auto_delete", what)?;
        assert_same(self.internal, spec.internal, "internal", what)?;
        assert_equivalent(
            &self.declared,
            spec.arguments,
            &["alternate-exchange"],
            what,
        )
    }
}

/// A name as RabbitMQ takes it in declarations, deletions and bindings: without line breaks.
pub(super) fn stripped(name: &str) -> Cow<'_, str> {
    if name.contains(['\r', '\n']) {
        return name.replace(['\r', '\n'], "").into();
    }
    name.into()
}

/// The name of a binding's source, if both ends may have bindings.
fn bindable(spec: BindingSpec<'_>) -> Result<Cow<'_, str>, Refusal> {
    if let DestinationName::Exchange(name) = spec.destination {
        refuse_default(&stripped(name))?;
    }
    let source = stripped(spec.source);
    refuse_default(&source)?;
    Ok(source)
}

fn refuse_default(name: &str) -> Result<(), Refusal> {
    if !name.is_empty() {
        return Ok(());
    }
    Err(Refusal::access_refused(
        "operation not permitted on the default exchange",
    ))
}
