//! What is said of a message, a reply or an error, without what two brokers cannot agree on.
//!
//! - The vhost's name: RabbitMQ has one for each run, and two runs of it are compared as well.
//! - Names that the broker makes up (queues, consumer tags): random by design, so they go by the
//!   order in which they came.
//! - Times in `x-death`: the second in which a message died is not the other broker's second.

use std::collections::HashMap;

use lapin::message::{BasicReturnMessage, Delivery};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{Error, ErrorKind};

/// What names mean on one side.
#[derive(Debug)]
pub(crate) struct Names {
    vhost: String,
    made_up: HashMap<String, String>,
}

impl Names {
    pub(crate) fn new(vhost: String) -> Self {
        let made_up = HashMap::new();
        Self { vhost, made_up }
    }

    /// The name a made-up one goes by: its kind and the order in which it came.
    pub(crate) fn made_up(&mut self, kind: &str, name: &str) -> String {
        let count = self.made_up.len();
        self.made_up
            .entry(name.to_owned())
            .or_insert_with(|| format!("<{kind} {count}>"))
            .clone()
    }

    pub(crate) fn text(&self, text: &str) -> String {
        let vhost = format!("vhost '{}'", self.vhost);
        let text = text.replace(&vhost, "vhost <vhost>");
        self.made_up
            .iter()
            .fold(text, |text, (name, alias)| text.replace(name, alias))
    }

    pub(crate) fn error(&self, error: &Error) -> String {
        match error.kind() {
            ErrorKind::ProtocolError(error) => {
                let kind = error.kind();
                format!("{kind:?} {}", self.text(error.get_message().as_str()))
            }
            // Which of a dead channel's states lapin tells depends on how far it has come.
            ErrorKind::InvalidChannelState(..)
            | ErrorKind::InvalidConnectionState(_)
            | ErrorKind::InvalidChannel(_) => "gone".to_owned(),
            other => format!("{other:?}"),
        }
    }

    pub(crate) fn delivery(&self, delivery: &Delivery) -> String {
        let redelivered = if delivery.redelivered {
            " redelivered"
        } else {
            ""
        };
        format!(
            "{}{redelivered} from {:?} by {:?} {}",
            body(&delivery.data),
            delivery.exchange.as_str(),
            self.text(delivery.routing_key.as_str()),
            self.text(&properties(delivery)),
        )
    }

    pub(crate) fn returned(&self, message: &BasicReturnMessage) -> String {
        let (code, text) = (message.reply_code, message.reply_text.as_str());
        format!("returned {code} {text}: {}", self.delivery(message))
    }
}

fn properties(delivery: &Delivery) -> String {
    let mut properties = delivery.properties.clone();
    if let Some(headers) = properties.headers() {
        let headers = without_times(headers);
        properties = properties.with_headers(headers);
    }
    format!("{properties:?}")
}

fn without_times(table: &FieldTable) -> FieldTable {
    let mut without = FieldTable::default();
    for (name, value) in table {
        without.insert(name.clone(), without_time(value));
    }
    without
}

fn without_time(value: &AMQPValue) -> AMQPValue {
    match value {
        AMQPValue::Timestamp(_) => AMQPValue::Timestamp(0),
        AMQPValue::FieldTable(table) => AMQPValue::FieldTable(without_times(table)),
        AMQPValue::FieldArray(array) => {
            let values: Vec<_> = array.as_slice().iter().map(without_time).collect();
            AMQPValue::FieldArray(FieldArray::from(values))
        }
        other => other.clone(),
    }
}

/// Bodies open with the message's name; the rest is filling.
fn body(data: &[u8]) -> String {
    let name: String = data
        .iter()
        .take_while(|byte| **byte != b' ')
        .map(|byte| char::from(*byte))
        .collect();
    format!("{name}({} B)", data.len())
}
