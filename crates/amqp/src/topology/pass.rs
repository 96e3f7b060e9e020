//! One pass over a topology on one connection.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use lapin::{
    options::{ExchangeBindOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Item, check,
    entity::{Arguments, Binding, Exchange, Queue},
    error::{TopologyError, TopologyErrorKind},
};
use crate::{channels::Channel, link::Link};

/// What the temporary queues are called, by label; none while there is no such queue.
pub(super) type Names = BTreeMap<String, watch::Sender<Option<Arc<str>>>>;

pub(super) struct Pass<'a> {
    pub(super) link: &'a Arc<Link>,
    pub(super) names: &'a Names,
    pub(super) began: Instant,
    pub(super) deadline: Instant,
    /// A refusal closes it, and the next entity gets another.
    channel: Option<Channel>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(link: &'a Arc<Link>, names: &'a Names, deadline: Instant) -> Self {
        Self {
            link,
            names,
            began: Instant::now(),
            deadline,
            channel: None,
        }
    }

    /// Declares what it can, and says what it could not, first of all.
    pub(super) async fn declare(
        mut self,
        items: impl Iterator<Item = &Item>,
    ) -> Result<(), TopologyError> {
        let mut outcome = Ok(());
        for item in items {
            let Err(kind) = self.step(item).await else {
                continue;
            };
            // Closed or not, its next answer may be to this question.
            self.channel = None;
            let is_end = matches!(kind, TopologyErrorKind::Timeout(_)) || !self.link.is_live();
            let entity = item.entity();
            outcome = outcome.and(Err(TopologyError { entity, kind }));
            if is_end {
                break;
            }
        }
        outcome
    }

    async fn step(&mut self, item: &Item) -> Result<(), TopologyErrorKind> {
        match item {
            Item::Exchange(exchange) => self.exchange(exchange).await,
            Item::Queue(queue) if queue.named_by_broker => self.temporary(queue).await,
            Item::Queue(queue) => self.queue(queue, &queue.name).await.map(drop),
            Item::Binding(binding) => self.binding(binding).await,
        }
    }

    async fn exchange(&mut self, exchange: &Exchange) -> Result<(), TopologyErrorKind> {
        let name = short(&exchange.name)?;
        let arguments = table(&exchange.arguments)?;
        let channel = self.channel().await?;
        let declared =
            channel.exchange_declare(name, exchange.kind.clone(), exchange.options, arguments);
        self.answer(declared).await
    }

    async fn queue(&mut self, queue: &Queue, name: &str) -> Result<String, TopologyErrorKind> {
        let name = short(name)?;
        let arguments = table(&queue.arguments)?;
        let channel = self.channel().await?;
        let declared = channel.queue_declare(name, queue.options, arguments);
        let declared = self.answer(declared).await?;
        Ok(declared.name().to_string())
    }

    /// Keeps the one that is there.
    async fn temporary(&mut self, queue: &Queue) -> Result<(), TopologyErrorKind> {
        let known = &self.names[&queue.name];
        let name = known.borrow().clone();
        if let Some(name) = name
            && self.is_there(&name).await?
        {
            return Ok(());
        }
        known.send_replace(None);
        let name = self.queue(queue, "").await?;
        known.send_replace(Some(name.into()));
        Ok(())
    }

    async fn is_there(&mut self, name: &str) -> Result<bool, TopologyErrorKind> {
        let name = short(name)?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let channel = self.channel().await?;
        let look = channel.queue_declare(name, passive, FieldTable::default());
        match self.answer(look).await {
            Ok(_) => Ok(true),
            Err(TopologyErrorKind::Missing(_)) => {
                self.channel = None;
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    async fn binding(&mut self, binding: &Binding) -> Result<(), TopologyErrorKind> {
        let Binding {
            destination,
            to_exchange,
            source,
            key,
            arguments,
        } = binding;
        let destination = match self.names.get(destination) {
            Some(name) if !to_exchange => match &*name.borrow() {
                Some(name) => short(name)?,
                // Why there is none has been said of the queue.
                None => return Ok(()),
            },
            _ => short(destination)?,
        };
        let (source, key) = (short(source)?, short(key)?);
        let arguments = table(arguments)?;
        let channel = self.channel().await?;
        if *to_exchange {
            let options = ExchangeBindOptions::default();
            let bound = channel.exchange_bind(destination, source, key, options, arguments);
            self.answer(bound).await
        } else {
            let options = QueueBindOptions::default();
            let bound = channel.queue_bind(destination, source, key, options, arguments);
            self.answer(bound).await
        }
    }

    async fn answer<T>(
        &self,
        question: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, TopologyErrorKind> {
        match timeout_at(self.deadline, self.link.answer(question)).await {
            Ok(answer) => answer.map_err(TopologyErrorKind::from),
            Err(_) => Err(TopologyErrorKind::Timeout(self.deadline - self.began)),
        }
    }

    async fn channel(&mut self) -> Result<lapin::Channel, TopologyErrorKind> {
        if self.channel.is_none() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let opened = self.link.open(false, left).await;
            let (channel, berth) = opened.map_err(TopologyErrorKind::Channel)?;
            self.channel = Some(Channel::new(channel, berth));
        }
        let channel = self.channel.as_deref();
        Ok(channel.expect("it was put there above").clone())
    }
}

// These cannot fail once a topology is checked; an error says so better than a panic would.

fn short(text: &str) -> Result<ShortString, TopologyErrorKind> {
    ShortString::try_new(text).map_err(|error| TopologyErrorKind::Invalid(error.to_string()))
}

fn table(arguments: &Arguments) -> Result<FieldTable, TopologyErrorKind> {
    check::table(arguments).map_err(TopologyErrorKind::Invalid)
}
