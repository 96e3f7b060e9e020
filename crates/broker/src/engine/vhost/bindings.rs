//! Bindings: what an exchange hands on to whom.

use std::collections::{BTreeSet, HashMap};

use amq_protocol::types::{FieldTable, generation::gen_field_table};
use slab::Slab;

use super::{
    destinations::{Destination, Destinations},
    headers::Headers,
    topic::Topic,
};

/// A binding as its index knows it.
pub(super) type BindingKey = usize;

/// A binding. Its identity is all of it, the arguments included (`rabbit_binding`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Binding {
    pub(super) source: usize,
    pub(super) destination: Destination,
    pub(super) routing_key: Box<str>,
    /// The arguments in their encoding, in which equal tables are equal.
    identity: Box<[u8]>,
}

/// All bindings of a virtual host.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    slots: Slab<(Binding, FieldTable)>,
    keys: HashMap<Binding, BindingKey>,
}

/// The bindings in which a queue or an exchange takes part.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) as_source: BTreeSet<BindingKey>,
    pub(super) as_destination: BTreeSet<BindingKey>,
}

/// The bindings of one exchange, ordered for routing.
#[derive(Debug)]
pub(super) enum Routes {
    Direct(HashMap<Box<str>, Destinations>),
    Fanout(Destinations),
    Topic(Topic),
    Headers(Headers),
}

impl Binding {
    pub(super) fn new(
        source: usize,
        destination: Destination,
        routing_key: &str,
        arguments: &FieldTable,
    ) -> Self {
        Self {
            source,
            destination,
            routing_key: routing_key.into(),
            identity: encoded(arguments).into(),
        }
    }
}

/// A table's encoding, empty for an empty table.
fn encoded(table: &FieldTable) -> Vec<u8> {
    if table.inner().is_empty() {
        return Vec::new();
    }
    let context = Vec::new().into();
    let bytes = gen_field_table(table)(context).map(|context| context.into_inner().0);
    bytes.expect("bug: a vector takes every table")
}

impl Bindings {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn find(&self, binding: &Binding) -> Option<BindingKey> {
        self.keys.get(binding).copied()
    }

    pub(super) fn insert(&mut self, binding: Binding, arguments: FieldTable) -> BindingKey {
        let key = self.slots.insert((binding.clone(), arguments));
        self.keys.insert(binding, key);
        key
    }

    pub(super) fn remove(&mut self, key: BindingKey) -> (Binding, FieldTable) {
        let removed = self.slots.remove(key);
        self.keys.remove(&removed.0);
        removed
    }
}

impl Routes {
    pub(super) fn insert(&mut self, binding: &Binding, arguments: &FieldTable) {
        let to = binding.destination;
        match self {
            Self::Direct(keys) => keys.entry(binding.routing_key.clone()).or_default().add(to),
            Self::Fanout(all) => all.add(to),
            Self::Topic(topic) => topic.insert(&binding.routing_key, to),
            Self::Headers(headers) => headers.insert(&binding.identity, arguments, to),
        }
    }

    pub(super) fn remove(&mut self, binding: &Binding, arguments: &FieldTable) {
        let to = binding.destination;
        match self {
            Self::Direct(keys) => {
                let Some(all) = keys.get_mut(&binding.routing_key) else {
                    return;
                };
                all.remove(to);
                if all.is_empty() {
                    keys.remove(&binding.routing_key);
                }
            }
            Self::Fanout(all) => all.remove(to),
            Self::Topic(topic) => topic.remove(&binding.routing_key, to),
            Self::Headers(headers) => headers.remove(&binding.identity, arguments, to),
        }
    }

    /// Calls `found` with the destinations of every binding that matches one of the keys, or the
    /// headers; a destination may come more than once.
    pub(super) fn find(
        &mut self,
        keys: &[&str],
        headers: Option<&FieldTable>,
        mut found: impl FnMut(&Destinations),
    ) {
        match self {
            Self::Direct(bound) => keys
                .iter()
                .filter_map(|key| bound.get(*key))
                .for_each(found),
            Self::Fanout(all) => found(all),
            Self::Topic(topic) => {
                for key in keys {
                    topic.find(key, &mut found);
                }
            }
            Self::Headers(bound) => bound.find(headers, found),
        }
    }
}
