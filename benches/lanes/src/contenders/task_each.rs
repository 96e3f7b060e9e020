//! What one writes by hand: a task for each key, which ends when it has flushed and nothing is there.
//! The map is swept of tasks that have ended when it has doubled.

use std::{collections::HashMap, time::Duration};

use tokio::{
    sync::mpsc::{Receiver, Sender, channel, error::SendError},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{Contender, Handled, ITEMS};

/// Channels by key.
#[derive(Debug)]
pub struct TaskEach {
    lanes: HashMap<u64, Sender<u64>>,
    tasks: JoinSet<()>,
    sweep_at: usize,
    linger: Duration,
    handled: Handled,
}

impl Contender for TaskEach {
    const NAME: &'static str = "a task for each key";

    fn open(linger: Duration, handled: &Handled) -> Self {
        Self {
            lanes: HashMap::new(),
            tasks: JoinSet::new(),
            sweep_at: 1024,
            linger,
            handled: handled.clone(),
        }
    }

    async fn push(&mut self, key: u64, item: u64) {
        if let Some(lane) = self.lanes.get(&key) {
            match lane.send(item).await {
                Ok(()) => return,
                Err(SendError(_)) => drop(self.lanes.remove(&key)),
            }
        }
        if self.lanes.len() >= self.sweep_at {
            self.lanes.retain(|_, lane| !lane.is_closed());
            self.sweep_at = (self.lanes.len() * 2).max(1024);
            while self.tasks.try_join_next().is_some() {}
        }
        let (sender, items) = channel(ITEMS);
        sender.send(item).await.expect("it is there");
        self.lanes.insert(key, sender);
        self.tasks
            .spawn(lane(items, self.linger, self.handled.clone()));
    }

    async fn finish(mut self) {
        self.lanes.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn lane(mut items: Receiver<u64>, linger: Duration, handled: Handled) {
    let mut batch = Vec::new();
    while let Some(first) = items.recv().await {
        batch.push(first);
        let deadline = Instant::now() + linger;
        while batch.len() < ITEMS
            && let Ok(Some(item)) = timeout_at(deadline, items.recv()).await
        {
            batch.push(item);
        }
        handled.add(batch.len());
        batch.clear();
        if items.is_empty() {
            // Whoever pushes next makes another lane.
            items.close();
        }
    }
}
