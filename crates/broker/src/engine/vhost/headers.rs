//! Bindings of a headers exchange.

use std::collections::{HashMap, HashSet};

use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use slab::Slab;

use super::{
    Refusal,
    arguments::{type_name, value_text},
    destinations::{Destination, Destinations},
};

/// What a binding asks of a message's headers.
#[derive(Debug)]
struct Pattern {
    any: bool,
    wanted: Vec<Trait>,
    destinations: Destinations,
}

/// A header by name, and by value unless its presence is enough.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Trait {
    name: Box<str>,
    value: Option<Value>,
}

/// A header's value as RabbitMQ compares it: numbers by their value whatever their width, strings
/// and byte arrays by their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Value {
    Integer(i128),
    /// The bits of a number that is not whole.
    Fraction(u64),
    Bytes(Vec<u8>),
    Boolean(bool),
    Void,
    /// Nested values and decimals, as they are written.
    Other(String),
}

/// Patterns, found by the traits a message has. A pattern that wants all of several traits is
/// filed under the one that the fewest others are filed under, one that wants any under each.
#[derive(Debug, Default)]
pub(super) struct Headers {
    patterns: Slab<Pattern>,
    /// The pattern of each identity.
    numbers: HashMap<Box<[u8]>, usize>,
    filed: HashMap<Trait, HashSet<usize>>,
    /// Patterns that want nothing, and get everything.
    always: Destinations,
}

impl Headers {
    /// `identity` names the arguments: equal arguments have equal identities.
    pub(super) fn insert(&mut self, identity: &[u8], arguments: &FieldTable, to: Destination) {
        if let Some(number) = self.numbers.get(identity) {
            self.patterns[*number].destinations.add(to);
            return;
        }
        let (any, wanted) = parse(arguments);
        if wanted.is_empty() {
            if !any {
                self.always.add(to);
            }
            return;
        }
        let number = self.patterns.vacant_key();
        for place in self.places(any, &wanted) {
            self.filed.entry(place).or_default().insert(number);
        }
        let mut destinations = Destinations::default();
        destinations.add(to);
        let pattern = Pattern {
            any,
            wanted,
            destinations,
        };
        self.patterns.insert(pattern);
        self.numbers.insert(identity.into(), number);
    }

    pub(super) fn remove(&mut self, identity: &[u8], arguments: &FieldTable, to: Destination) {
        let Some(&number) = self.numbers.get(identity) else {
            if parse(arguments) == (false, Vec::new()) {
                self.always.remove(to);
            }
            return;
        };
        let pattern = &mut self.patterns[number];
        pattern.destinations.remove(to);
        if !pattern.destinations.is_empty() {
            return;
        }
        for wanted in &pattern.wanted {
            if let Some(place) = self.filed.get_mut(wanted) {
                place.remove(&number);
                if place.is_empty() {
                    self.filed.remove(wanted);
                }
            }
        }
        self.patterns.remove(number);
        self.numbers.remove(identity);
    }

    /// Calls `found` with the destinations of every pattern that matches, some more than once.
    pub(super) fn find(&self, headers: Option<&FieldTable>, mut found: impl FnMut(&Destinations)) {
        found(&self.always);
        let Some(headers) = headers.filter(|_| !self.patterns.is_empty()) else {
            return;
        };
        let has: HashSet<Trait> = headers.into_iter().flat_map(traits_of).collect();
        for number in has.iter().filter_map(|it| self.filed.get(it)).flatten() {
            let pattern = &self.patterns[*number];
            if pattern.any || pattern.wanted.iter().all(|wanted| has.contains(wanted)) {
                found(&pattern.destinations);
            }
        }
    }

    fn places(&self, any: bool, wanted: &[Trait]) -> Vec<Trait> {
        if any {
            return wanted.to_vec();
        }
        let filed = |it: &&Trait| self.filed.get(*it).map_or(0, HashSet::len);
        wanted
            .iter()
            .min_by_key(filed)
            .cloned()
            .into_iter()
            .collect()
    }
}

/// Refuses an `x-match` that RabbitMQ refuses.
pub(super) fn validate(arguments: &FieldTable) -> Result<(), Refusal> {
    let text = match arguments.inner().get("x-match") {
        None => return Ok(()),
        Some(AMQPValue::LongString(kind)) => match kind.as_bytes() {
            b"all" | b"any" | b"all-with-x" | b"any-with-x" => return Ok(()),
            _ => format!(
                "Invalid x-match field value <<\"{kind}\">>; expected all, any, all-with-x, or \
                 any-with-x"
            ),
        },
        Some(other) => format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            type_name(other),
            value_text(other)
        ),
    };
    Err(Refusal::precondition_failed(text))
}

/// Whether one of the headers is enough, and the headers wanted.
fn parse(arguments: &FieldTable) -> (bool, Vec<Trait>) {
    let kind = match arguments.inner().get("x-match") {
        Some(AMQPValue::LongString(kind)) => kind.as_bytes(),
        _ => b"all",
    };
    let with_x = kind.ends_with(b"-with-x");
    let wanted = arguments
        .into_iter()
        .filter(|(name, _)| match name.as_str() {
            "x-match" => false,
            name => with_x || !name.starts_with("x-"),
        })
        .map(|(name, value)| Trait {
            name: name.as_str().into(),
            value: (*value != AMQPValue::Void).then(|| Value::of(value)),
        });
    (kind.starts_with(b"any"), wanted.collect())
}

/// What a message's header can be wanted for: that it is there, and what it is.
fn traits_of((name, value): (&ShortString, &AMQPValue)) -> [Trait; 2] {
    let name: Box<str> = name.as_str().into();
    [
        Trait {
            name: name.clone(),
            value: None,
        },
        Trait {
            name,
            value: Some(Value::of(value)),
        },
    ]
}

impl Value {
    fn of(value: &AMQPValue) -> Self {
        match value {
            AMQPValue::Boolean(it) => Self::Boolean(*it),
            AMQPValue::ShortShortInt(it) => Self::Integer((*it).into()),
            AMQPValue::ShortShortUInt(it) => Self::Integer((*it).into()),
            AMQPValue::ShortInt(it) => Self::Integer((*it).into()),
            AMQPValue::ShortUInt(it) => Self::Integer((*it).into()),
            AMQPValue::LongInt(it) => Self::Integer((*it).into()),
            AMQPValue::LongUInt(it) => Self::Integer((*it).into()),
            AMQPValue::LongLongInt(it) => Self::Integer((*it).into()),
            AMQPValue::Timestamp(it) => Self::Integer((*it).into()),
            AMQPValue::Float(it) => Self::of_float((*it).into()),
            AMQPValue::Double(it) => Self::of_float(*it),
            AMQPValue::LongString(it) => Self::Bytes(it.as_bytes().to_vec()),
            AMQPValue::ShortString(it) => Self::Bytes(it.as_str().as_bytes().to_vec()),
            AMQPValue::ByteArray(it) => Self::Bytes(it.as_slice().to_vec()),
            AMQPValue::Void => Self::Void,
            AMQPValue::DecimalValue(_) | AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) => {
                Self::Other(format!("{value:?}"))
            }
        }
    }

    fn of_float(it: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "checked by casting back")]
        let whole = it as i128;
        #[expect(clippy::cast_precision_loss, reason = "a loss shows in the comparison")]
        if whole as f64 == it {
            return Self::Integer(whole);
        }
        Self::Fraction(it.to_bits())
    }
}
