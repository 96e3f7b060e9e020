//! Declaring, deleting and binding.

use std::collections::BTreeMap;

use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{Channel, Error, ExchangeKind};

use crate::normal::Names;
use crate::operations::*;

/// The queues a side knows of.
#[derive(Default)]
pub(crate) struct Queues {
    /// Those whose depth is looked at, each with a channel of the observer for it: a queue that
    /// is not there costs the channel.
    pub(crate) watched: BTreeMap<String, Option<Channel>>,
    /// In the order they came.
    pub(crate) server_named: Vec<String>,
}

impl Queues {
    pub(crate) fn name(&self, queue: usize) -> String {
        match queue.checked_sub(QUEUES) {
            None => format!("q{queue}"),
            // No name at all stands for the queue this channel declared last.
            Some(place) => self.server_named.get(place).cloned().unwrap_or_default(),
        }
    }
}

pub(crate) async fn perform(
    operation: Topology,
    channel: &Channel,
    scenario: &Scenario,
    queues: &mut Queues,
    names: &mut Names,
) -> Result<String, Error> {
    match operation {
        Topology::DeclareQueue { queue, twist } => {
            declare_queue(channel, queue, &scenario.queues[queue], twist, queues).await
        }
        Topology::DeclareServerNamed {
            exclusive,
            auto_delete,
        } => {
            let options = QueueDeclareOptions {
                exclusive,
                auto_delete,
                ..QueueDeclareOptions::default()
            };
            let none = FieldTable::default();
            let declared = channel.queue_declare("".into(), options, none).await?;
            let name = declared.name().to_string();
            let random = name.strip_prefix("amq.gen-").map(str::len);
            names.made_up("queue", &name);
            queues.watched.entry(name.clone()).or_default();
            queues.server_named.push(name);
            Ok(format!(
                "declared, its name has a random part of {random:?}"
            ))
        }
        Topology::DeleteQueue {
            queue,
            if_unused,
            if_empty,
        } => {
            let options = QueueDeleteOptions {
                if_unused,
                if_empty,
                nowait: false,
            };
            let name = queues.name(queue).into();
            let deleted = channel.queue_delete(name, options).await?;
            Ok(format!("deleted with {deleted}"))
        }
        Topology::Purge { queue } => {
            let name = queues.name(queue).into();
            let purged = channel
                .queue_purge(name, QueuePurgeOptions::default())
                .await?;
            Ok(format!("purged of {purged}"))
        }
        Topology::DeclareExchange { exchange, twist } => {
            let spec = &scenario.exchanges[exchange];
            declare_exchange(channel, exchange, spec, twist).await
        }
        Topology::DeleteExchange {
            exchange,
            if_unused,
        } => {
            let options = ExchangeDeleteOptions {
                if_unused,
                nowait: false,
            };
            channel
                .exchange_delete(exchange_name(exchange).into(), options)
                .await?;
            Ok("deleted".to_owned())
        }
        Topology::Bind(Binding {
            queue,
            exchange,
            key,
            match_on,
        }) => {
            let (queue, exchange) = (queues.name(queue).into(), exchange_name(exchange).into());
            let (options, arguments) = (QueueBindOptions::default(), match_on.table());
            channel
                .queue_bind(queue, exchange, key.into(), options, arguments)
                .await?;
            Ok("bound".to_owned())
        }
        Topology::Unbind(Binding {
            queue,
            exchange,
            key,
            match_on,
        }) => {
            let (queue, exchange) = (queues.name(queue).into(), exchange_name(exchange).into());
            channel
                .queue_unbind(queue, exchange, key.into(), match_on.table())
                .await?;
            Ok("unbound".to_owned())
        }
        Topology::BindExchange {
            destination,
            source,
            key,
        } => {
            let options = ExchangeBindOptions::default();
            let (to, from) = (
                exchange_name(destination).into(),
                exchange_name(source).into(),
            );
            let none = FieldTable::default();
            channel
                .exchange_bind(to, from, key.into(), options, none)
                .await?;
            Ok("bound".to_owned())
        }
        Topology::UnbindExchange {
            destination,
            source,
            key,
        } => {
            let options = ExchangeUnbindOptions::default();
            let (to, from) = (
                exchange_name(destination).into(),
                exchange_name(source).into(),
            );
            let none = FieldTable::default();
            channel
                .exchange_unbind(to, from, key.into(), options, none)
                .await?;
            Ok("unbound".to_owned())
        }
    }
}

async fn declare_queue(
    channel: &Channel,
    queue: usize,
    spec: &QueueSpec,
    twist: Option<Twist>,
    queues: &mut Queues,
) -> Result<String, Error> {
    let options = QueueDeclareOptions {
        passive: matches!(twist, Some(Twist::Passive)),
        durable: spec.durable ^ matches!(twist, Some(Twist::Durable)),
        exclusive: spec.exclusive ^ matches!(twist, Some(Twist::Exclusive)),
        auto_delete: spec.auto_delete ^ matches!(twist, Some(Twist::AutoDelete)),
        nowait: false,
    };
    let name = queues.name(queue);
    let declared = channel
        .queue_declare(name.as_str().into(), options, spec.arguments(twist))
        .await?;
    queues.watched.entry(name).or_default();
    let (messages, consumers) = (declared.message_count(), declared.consumer_count());
    Ok(format!(
        "declared with {messages} messages, {consumers} consumers"
    ))
}

async fn declare_exchange(
    channel: &Channel,
    exchange: usize,
    spec: &ExchangeSpec,
    twist: Option<ExchangeTwist>,
) -> Result<String, Error> {
    let kind = match twist {
        Some(ExchangeTwist::Kind(kind)) => kind,
        _ => spec.kind,
    };
    let options = ExchangeDeclareOptions {
        passive: matches!(twist, Some(ExchangeTwist::Passive)),
        durable: spec.durable ^ matches!(twist, Some(ExchangeTwist::Durable)),
        auto_delete: spec.auto_delete ^ matches!(twist, Some(ExchangeTwist::AutoDelete)),
        internal: spec.internal ^ matches!(twist, Some(ExchangeTwist::Internal)),
        nowait: false,
    };
    let (name, kind) = (
        exchange_name(exchange),
        ExchangeKind::Custom(kind.to_owned()),
    );
    channel
        .exchange_declare(name.into(), kind, options, spec.arguments())
        .await?;
    Ok("declared".to_owned())
}
