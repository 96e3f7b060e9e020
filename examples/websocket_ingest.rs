//! Reports over WebSocket, batched by the sensor they are about, each batch published with a confirm.
//!
//! A client sends JSON reports of any sensors. Which lane a report belongs to is only known once it
//! has been parsed. Ten reports of a sensor, or what there is of it after the linger, become one
//! message. When a client goes, the lanes of its sensors are flushed rather than left to linger. A
//! client that sends what is no report, or names too many sensors, is dropped; that is logged, and
//! costs nobody else anything.
//!
//! The program is its own test: 500 clients connect and send, half of them say goodbye and half just
//! vanish, some ping, and two more misbehave; then it reads the queue, and ends with an error unless
//! every report is there once, in order for each sensor.
//!
//! ```sh
//! cargo run --example websocket_ingest            # a linger of 200 ms, to be done soon
//! cargo run --example websocket_ingest -- 10000   # ten seconds, as in production
//! ```

mod broker;

use std::{collections::BTreeMap, error::Error, net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async, tungstenite};
use wharf_amqp::{
    Cluster, Consumer, Message, PublishError, Publisher, Receipt, Topology,
    consumer::{Delivery, Outcome},
    topology::{Exchange, Queue},
};
use wharf_lanes::{Batch, Failed, KeyGuard, Lanes, Reason};

type Failure = Box<dyn Error + Send + Sync>;
type Sensor = String;

const EXCHANGE: &str = "example.ingest";
const QUEUE: &str = "example.ingest.batches";
/// A guard for each sensor is kept as long as the client stays.
const SENSORS_OF_A_CLIENT: usize = 100;
const CLIENTS: u32 = 500;
const ROGUES: u32 = 2;
const SENSORS: u32 = 3;
const REPORTS: u32 = 25;
const BOUND: Duration = Duration::from_secs(60);

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Report {
    sensor: Sensor,
    number: u32,
    value: f64,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let linger = std::env::args().nth(1).map_or(Ok(200), |arg| arg.parse())?;
    let broker = broker::broker().await.map_err(|error| error.to_string())?;
    let cluster = Cluster::builder([&*broker.url]).connect().await?;
    let topology = Topology::new()
        .exchange(Exchange::topic(EXCHANGE))
        .queue(Queue::durable(QUEUE))
        .bind(QUEUE, EXCHANGE, "#");
    let publisher = Publisher::builder(&cluster)
        .topology(topology.clone())
        .build()
        .await?;
    // What an earlier run may have left.
    let channel = cluster.channels().get().await?;
    channel
        .queue_purge(QUEUE.into(), Default::default())
        .await?;
    drop(channel);
    let (sender, batches) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&cluster, QUEUE)
        .topology(topology)
        .prefetch(100)
        .start(move |delivery: Delivery| {
            let _ = sender.send(delivery.data.clone());
            async { Outcome::Ack }
        })
        .await?;

    let lanes = lanes(publisher.clone(), Duration::from_millis(linger))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(serve(listener, lanes.clone()));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(async move { simulate(client, connect(address).await?).await });
    }
    clients.spawn(async move { babble(connect(address).await?).await });
    clients.spawn(async move { claim_too_much(connect(address).await?).await });
    while let Some(client) = timeout(BOUND, clients.join_next()).await? {
        client??;
    }
    // All have been heard to the end, and their lanes are closed.
    let dropped = timeout(BOUND, server).await???;
    if dropped != ROGUES {
        return Err(format!("{dropped} clients were dropped, and not {ROGUES}").into());
    }
    timeout(BOUND, lanes.close()).await??;
    let status = lanes.status();
    println!(
        "{} reports in {} full batches, {} after the linger, {} as a client went",
        status.handled,
        status.flushed(Reason::Items),
        status.flushed(Reason::Linger),
        status.flushed(Reason::KeyClosed) + status.flushed(Reason::Closed),
    );
    let verdict = check(batches).await;
    publisher.close_within(Duration::from_secs(5)).await?;
    consumer.stop_within(Duration::from_secs(5)).await?;
    let channel = cluster.channels().get().await?;
    channel
        .queue_delete(QUEUE.into(), Default::default())
        .await?;
    channel
        .exchange_delete(EXCHANGE.into(), Default::default())
        .await?;
    drop(channel);
    cluster.close_within(Duration::from_secs(5)).await;
    verdict
}

fn lanes(publisher: Publisher, linger: Duration) -> Result<Lanes<Sensor, Report>, Failure> {
    let lanes = Lanes::builder(
        move |batch: Batch<Sensor, Report>| {
            let publisher = publisher.clone();
            async move { publish(&publisher, &batch).await }
        },
        // Where they would go in production: a file, an alarm. Here, nothing may fail.
        |failed: Failed<Sensor, Report, PublishFailed>| eprintln!("given up: {failed:?}"),
    );
    // 64 batches are on their way to the broker at a time; a client that sends more than can be
    // published is read no further.
    let lanes = lanes
        .items(10)
        .linger(linger)
        .concurrency(64)
        .max_items(20_000);
    Ok(lanes.build()?)
}

/// Any other outcome than a confirm has the batch tried again. After one that is unknown the broker
/// may have it twice, which the numbers in it tell.
#[derive(Debug)]
#[allow(dead_code, reason = "shown with Debug")]
enum PublishFailed {
    Error(PublishError),
    Receipt(Receipt),
}

async fn publish(
    publisher: &Publisher,
    batch: &Batch<Sensor, Report>,
) -> Result<(), PublishFailed> {
    match send(publisher, batch).await {
        Ok(Receipt::Confirmed { .. }) => Ok(()),
        Ok(other) => Err(PublishFailed::Receipt(other)),
        Err(error) => Err(PublishFailed::Error(error)),
    }
}

async fn send(
    publisher: &Publisher,
    batch: &Batch<Sensor, Report>,
) -> Result<Receipt, PublishError> {
    let reports: &[Report] = batch;
    let message = Message::json(&reports)?.to(EXCHANGE, batch.key().as_str());
    publisher.publish(message.persistent()).await
}

/// Hears so many clients to the end; tells how many of them were dropped.
async fn serve(listener: TcpListener, lanes: Lanes<Sensor, Report>) -> Result<u32, Failure> {
    let mut sessions = JoinSet::new();
    for _ in 0..CLIENTS + ROGUES {
        let (stream, client) = listener.accept().await?;
        let lanes = lanes.clone();
        sessions.spawn(async move {
            let heard = hear(stream, &lanes).await;
            if let Err(error) = &heard {
                eprintln!("{client} is dropped: {error}");
            }
            u32::from(heard.is_err())
        });
    }
    Ok(sessions.join_all().await.iter().sum())
}

async fn hear(stream: TcpStream, lanes: &Lanes<Sensor, Report>) -> Result<(), Failure> {
    let mut socket = accept_async(stream).await?;
    // Dropped however this ends: with the client, its lanes close.
    let mut guards: BTreeMap<Sensor, KeyGuard<Sensor, Report>> = BTreeMap::new();
    // A client that vanishes is one that has gone.
    while let Some(Ok(frame)) = socket.next().await {
        let text = match frame {
            tungstenite::Message::Text(text) => text,
            // Pings are answered by whoever reads them.
            tungstenite::Message::Ping(_) | tungstenite::Message::Pong(_) => continue,
            tungstenite::Message::Close(_) => break,
            _ => return Err("a frame that is not text".into()),
        };
        let report: Report = serde_json::from_str(text.as_str())?;
        let sensor = report.sensor.clone();
        if guards.len() == SENSORS_OF_A_CLIENT && !guards.contains_key(&sensor) {
            return Err("too many sensors".into());
        }
        let guard = guards.entry(sensor);
        let guard = guard.or_insert_with_key(|sensor| lanes.guard(sensor.clone()));
        guard.push(report).await?;
    }
    Ok(())
}

type Socket = WebSocketStream<TcpStream>;

async fn connect(server: SocketAddr) -> Result<Socket, Failure> {
    let stream = TcpStream::connect(server).await?;
    Ok(client_async("ws://localhost/", stream).await?.0)
}

/// A client with a few sensors, which report by turns.
async fn simulate(client: u32, mut socket: Socket) -> Result<(), Failure> {
    for number in 0..REPORTS {
        for sensor in 0..SENSORS {
            report(&mut socket, format!("{client}.{sensor}"), number).await?;
        }
        if number == REPORTS / 2 && client.is_multiple_of(3) {
            socket
                .send(tungstenite::Message::Ping("alive?".into()))
                .await?;
            match socket.next().await {
                Some(Ok(tungstenite::Message::Pong(_))) => {}
                other => return Err(format!("a ping is answered with {other:?}").into()),
            }
        }
    }
    if client.is_multiple_of(2) {
        socket.close(None).await?;
    }
    Ok(())
}

async fn report(socket: &mut Socket, sensor: Sensor, number: u32) -> Result<(), Failure> {
    let value = f64::from(number) / 10.0;
    let report = Report {
        sensor,
        number,
        value,
    };
    let text = serde_json::to_string(&report)?;
    Ok(socket.send(tungstenite::Message::text(text)).await?)
}

/// A client that sends something else.
async fn babble(mut socket: Socket) -> Result<(), Failure> {
    socket.send(tungstenite::Message::text("hello")).await?;
    is_dropped(socket).await
}

/// A client that names one sensor after the other.
async fn claim_too_much(mut socket: Socket) -> Result<(), Failure> {
    for sensor in 0..=SENSORS_OF_A_CLIENT {
        report(&mut socket, format!("claimed.{sensor}"), 0).await?;
    }
    is_dropped(socket).await
}

async fn is_dropped(mut socket: Socket) -> Result<(), Failure> {
    while let Some(Ok(_)) = timeout(BOUND, socket.next()).await? {}
    Ok(())
}

/// The numbers of the reports of each sensor.
fn expected() -> BTreeMap<Sensor, Vec<u32>> {
    let sensors = (0..CLIENTS).flat_map(|client| (0..SENSORS).map(move |sensor| (client, sensor)));
    let honest = sensors.map(|(client, sensor)| (format!("{client}.{sensor}"), REPORTS));
    // What was taken before the client was dropped is not lost.
    let claimed = (0..SENSORS_OF_A_CLIENT).map(|sensor| (format!("claimed.{sensor}"), 1));
    let all = honest.chain(claimed);
    all.map(|(sensor, reports)| (sensor, (0..reports).collect()))
        .collect()
}

/// Reads what the broker has, and looks whether it is everything, once, and in order.
async fn check(mut batches: mpsc::UnboundedReceiver<Vec<u8>>) -> Result<(), Failure> {
    let expected = expected();
    let mut numbers: BTreeMap<Sensor, Vec<u32>> = BTreeMap::new();
    let total: usize = expected.values().map(Vec::len).sum();
    let (mut reports, mut messages) = (0, 0);
    while reports < total {
        let batch = timeout(BOUND, batches.recv()).await?;
        let batch: Vec<Report> = serde_json::from_slice(&batch.ok_or("no more batches")?)?;
        if batch.is_empty() || batch.len() > 10 {
            return Err(format!("a batch of {}", batch.len()).into());
        }
        messages += 1;
        for report in batch {
            numbers
                .entry(report.sensor)
                .or_default()
                .push(report.number);
            reports += 1;
        }
    }
    if let Ok(batch) = batches.try_recv() {
        return Err(format!("a batch too many, of {} bytes", batch.len()).into());
    }
    for (sensor, expected) in &expected {
        let numbers = numbers.get(sensor);
        if numbers != Some(expected) {
            return Err(format!("sensor {sensor} reported {numbers:?}").into());
        }
    }
    println!(
        "{reports} reports of {} sensors came in {messages} messages, in order",
        numbers.len()
    );
    Ok(())
}
