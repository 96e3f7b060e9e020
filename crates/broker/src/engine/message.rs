//! A message as all queues share it.

use std::mem::size_of;

use amq_protocol::{
    protocol::BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use bytes::Bytes;

/// A published message. Queues share it by `Arc`; nothing copies its body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

impl Message {
    /// What it costs in memory: its body, its names, its properties, and the structure itself.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>()
            + self.body.len()
            + self.exchange.as_str().len()
            + self.routing_key.as_str().len()
            + properties_weight(&self.properties)
    }
}

/// What the texts and headers of a message cost in memory.
pub(crate) fn properties_weight(properties: &BasicProperties) -> usize {
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let texts = texts.into_iter().flatten();
    texts.map(|text| text.as_str().len()).sum::<usize>()
        + properties.headers().as_ref().map_or(0, table_weight)
}

/// What a table costs in memory, about.
pub(crate) fn table_weight(table: &FieldTable) -> usize {
    table
        .into_iter()
        .map(|(name, value)| size_of_val(name) + name.as_str().len() + value_weight(value))
        .sum()
}

fn value_weight(value: &AMQPValue) -> usize {
    size_of_val(value)
        + match value {
            AMQPValue::LongString(text) => text.len(),
            AMQPValue::ShortString(text) => text.as_str().len(),
            AMQPValue::ByteArray(bytes) => bytes.len(),
            AMQPValue::FieldArray(values) => values.as_slice().iter().map(value_weight).sum(),
            AMQPValue::FieldTable(table) => table_weight(table),
            _ => 0,
        }
}
