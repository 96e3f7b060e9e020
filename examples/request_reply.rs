//! Questions and answers: each question has a number and a deadline, and its answer comes to a queue
//! of the client's own.
//!
//! A hundred questions are asked at once, and each gets its own answer. One that the server does
//! not understand gets none within its deadline.
//!
//! ```sh
//! cargo run --example request_reply
//! ```

mod broker;

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinSet, time::timeout};
use wharf_amqp::{
    Cluster, Consumer, Message, Publisher, Receipt, Topology,
    consumer::{Delivery, Outcome},
    topology::{Declaration, Queue},
};

const QUESTIONS: &str = "example.questions";
const PATIENCE: Duration = Duration::from_secs(30);

type Fault = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let broker = broker::broker().await.map_err(|error| error.to_string())?;
    let cluster = Cluster::builder([&*broker.url]).connect().await?;
    let server = serve(&cluster).await?;
    let client = Client::new(&cluster).await?;

    let mut asked = JoinSet::new();
    for number in 0..100_u64 {
        let client = client.clone();
        asked.spawn(async move {
            let answer = client.ask(number.to_string(), PATIENCE).await?;
            Ok::<_, Fault>(answer == (number * number).to_string())
        });
    }
    let mut right = 0;
    while let Some(answer) = asked.join_next().await {
        right += u32::from(answer??);
    }
    println!("{right} right answers");
    let unanswered = client.ask("why?".into(), Duration::from_millis(300)).await;
    println!("and to \"why?\": {unanswered:?}");

    server.stop_within(PATIENCE).await?;
    drop(client);
    cluster.close_within(Duration::from_secs(5)).await;
    if (right, unanswered.is_err()) != (100, true) {
        return Err("it is not as it should be".into());
    }
    Ok(())
}

/// Squares numbers. A question is acknowledged after its answer was confirmed, so that none is
/// lost with this server: the next one gets it again.
async fn serve(cluster: &Cluster) -> Result<Consumer, Fault> {
    let publisher = Publisher::builder(cluster).build().await?;
    let answer = move |question: Delivery| {
        let publisher = publisher.clone();
        async move {
            let Some(message) = answer(&question) else {
                return Outcome::Reject;
            };
            match publisher.publish(message).await {
                // Returned: whoever asked is gone.
                Ok(Receipt::Confirmed { .. } | Receipt::Returned { .. }) => Outcome::Ack,
                _ => Outcome::Requeue,
            }
        }
    };
    let consumer = Consumer::builder(cluster, QUESTIONS)
        .topology(Topology::new().queue(Queue::transient(QUESTIONS).auto_delete()))
        .concurrency(16);
    Ok(consumer.start(answer).await?)
}

fn answer(question: &Delivery) -> Option<Message> {
    let number: u64 = str::from_utf8(&question.data).ok()?.parse().ok()?;
    let reply_to = question.properties.reply_to().as_ref()?;
    let correlation = question.properties.correlation_id().as_ref()?;
    let message = Message::new(number.checked_mul(number)?.to_string())
        .to("", reply_to.as_str())
        .correlation_id(correlation.as_str());
    Some(message)
}

/// Asks, and tells the answers apart by their numbers.
#[derive(Clone)]
struct Client(Arc<Desk>);

struct Desk {
    publisher: Publisher,
    replies: Declaration,
    /// Who waits for the answer to which question.
    open: Arc<Mutex<HashMap<String, oneshot::Sender<String>>>>,
    count: AtomicU64,
    _consumer: Consumer,
}

impl Client {
    async fn new(cluster: &Cluster) -> Result<Self, Fault> {
        // It goes with its connection, and another takes its place. Answers that are on their way
        // then are lost, and their askers' time runs out.
        let topology = Topology::new().queue(Queue::temporary("replies"));
        let replies = cluster.declare(&topology).await?;
        let open: Arc<Mutex<HashMap<_, oneshot::Sender<String>>>> = Arc::default();
        let waiting = Arc::clone(&open);
        let consumer = Consumer::builder(cluster, "replies").topology(topology);
        let consumer = consumer.start(move |reply: Delivery| {
            let number = reply.properties.correlation_id().as_ref();
            let mut waiting = waiting.lock().expect("no task panics");
            // One that nobody waits for came late, or twice.
            if let Some(asker) = number.and_then(|number| waiting.remove(number.as_str())) {
                let _ = asker.send(String::from_utf8_lossy(&reply.data).into_owned());
            }
            async { Outcome::Ack }
        });
        Ok(Self(Arc::new(Desk {
            _consumer: consumer.await?,
            publisher: Publisher::builder(cluster).build().await?,
            replies,
            open,
            count: AtomicU64::new(0),
        })))
    }

    async fn ask(&self, question: String, limit: Duration) -> Result<String, Fault> {
        let number = self.0.count.fetch_add(1, Ordering::Relaxed).to_string();
        let replies = self.0.replies.queue_name("replies");
        let message = Message::new(question)
            .to("", QUESTIONS)
            .correlation_id(&number)
            .reply_to(&*replies.ok_or("there is no connection")?)
            // What nobody waits for any more need not be answered.
            .ttl(limit);
        let answered = self.expect(number);
        let answer = timeout(limit, async {
            match self.0.publisher.publish(message).await? {
                // Unknown: the answer, if one comes, says that the question arrived.
                Receipt::Confirmed { .. } | Receipt::Unknown { .. } => Ok(answered.await?),
                other => Err(format!("the question was not taken: {other:?}").into()),
            }
        });
        let answer = answer.await;
        answer.map_err(|_| format!("no answer within {limit:?}"))?
    }

    /// Those who left before their answer came are forgotten.
    fn expect(&self, number: String) -> oneshot::Receiver<String> {
        let (answer, answered) = oneshot::channel();
        let mut open = self.0.open.lock().expect("no task panics");
        open.retain(|_, asker| !asker.is_closed());
        open.insert(number, answer);
        answered
    }
}
