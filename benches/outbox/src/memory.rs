//! Messages through an outbox in memory, on one thread: from the call that puts them in to the end
//! of their delivery. A second is one of the processor's, which is the same as any other while
//! nobody else runs, and does not change when somebody does.

use std::sync::Arc;

use tokio::sync::mpsc;
use wharf_outbox::{Outbox, Ticket};
use wharf_race::lane::{Lane, Trouble};
use wharf_race::options::Options;
use wharf_race::quiet::processor_time;
use wharf_race::runtime::Arena;
use wharf_race::verdict::{Bound, Verdicts};

use crate::{BODY, Contender, Entrant, Sink, compete};

const MESSAGES: usize = 200_000;
const HELD: usize = 4096;

pub(crate) fn run(options: &Options, verdicts: &mut Verdicts) {
    println!("memory: {MESSAGES} messages a slice, one thread");
    let arena = &Arc::new(Arena::one_worker());
    let with = move |manner: Manner| {
        let arena = Arc::clone(arena);
        move || {
            let arena = Arc::clone(&arena);
            Ok(Box::new(Memory { arena, manner }) as Entrant)
        }
    };
    let mut lanes = vec![
        Lane::new("post", with(Manner::Post)),
        Lane::new("enqueue", with(Manner::Ticket)),
        Lane::new("post, 16 in flight", with(Manner::Pipelined)),
        Lane::new("tokio mpsc", with(Manner::Channel)),
    ];
    let results = compete(options, &mut lanes, "tokio mpsc");
    for (name, bound) in [("post", 2e6), ("enqueue", 2e6)] {
        let rate = results.spread(name, |rate| *rate).map(|rate| rate.median);
        let millions = rate.map(|rate| rate / 1e6);
        let of = format!("million messages/s, {name}");
        verdicts.must(millions, Bound::AtLeast(bound / 1e6), &of);
    }
}

#[derive(Clone, Copy)]
enum Manner {
    Post,
    Ticket,
    Pipelined,
    Channel,
}

struct Memory {
    arena: Arc<Arena>,
    manner: Manner,
}

impl Contender for Memory {
    fn slice(&self) -> Result<f64, Trouble> {
        let manner = self.manner;
        self.arena.run(async move {
            let body: Arc<[u8]> = vec![0; BODY].into();
            match manner {
                Manner::Channel => channel(body).await,
                _ => outbox(body, manner).await,
            }
        })
    }
}

async fn outbox(body: Arc<[u8]>, manner: Manner) -> Result<f64, Trouble> {
    let builder = Outbox::builder(Sink { is_up: true }).max_messages(HELD);
    let builder = match manner {
        Manner::Pipelined => builder.pipelined(16),
        _ => builder,
    };
    let outbox = builder.weigh(|body| body.len()).build();
    let outbox = outbox.map_err(Trouble::of)?;
    let since = spent()?;
    if let Manner::Ticket = manner {
        let mut last: Option<Ticket<_, _, _>> = None;
        for _ in 0..MESSAGES {
            let ticket = outbox.enqueue(Arc::clone(&body)).await;
            last = Some(ticket.map_err(Trouble::of)?);
        }
        if let Some(last) = last {
            last.await.map_err(Trouble::of)?;
        }
    } else {
        for _ in 0..MESSAGES {
            let posted = outbox.post(Arc::clone(&body)).await;
            posted.map_err(Trouble::of)?;
        }
    }
    outbox.flush().await.map_err(Trouble::of)?;
    let rate = MESSAGES as f64 / (spent()? - since);
    match outbox.status().totals.delivered {
        delivered if delivered == MESSAGES as u64 => Ok(rate),
        delivered => Err(Trouble::Failed(format!("{delivered} delivered"))),
    }
}

/// Seconds that this process has had a processor.
fn spent() -> Result<f64, Trouble> {
    let spent = processor_time("self").map(|spent| spent.as_secs_f64());
    spent.ok_or_else(|| Trouble::Failed("the system does not tell processor time".into()))
}

/// What a channel and a task cost, which know nothing of outages.
async fn channel(body: Arc<[u8]>) -> Result<f64, Trouble> {
    let (sender, mut receiver) = mpsc::channel::<Arc<[u8]>>(HELD);
    let since = spent()?;
    let drain = tokio::spawn(async move {
        let mut count = 0;
        while receiver.recv().await.is_some() {
            count += 1;
        }
        count
    });
    for _ in 0..MESSAGES {
        sender.send(Arc::clone(&body)).await.map_err(Trouble::of)?;
    }
    drop(sender);
    let count = drain.await.map_err(Trouble::of)?;
    assert_eq!(count, MESSAGES);
    Ok(MESSAGES as f64 / (spent()? - since))
}
