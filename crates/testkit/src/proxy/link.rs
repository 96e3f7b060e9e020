//! One connection through the proxy: client, server, and a pump for each direction.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::orders::{Direction, End, Orders, Traffic};
use super::{Counts, Shared};

const CHUNK: usize = 16 * 1024;

/// Chunks under way per direction: enough for full speed at a delay of a second.
const UNDER_WAY: usize = 256;

pub(super) struct Link {
    shared: Arc<Shared>,
    orders: watch::Receiver<Orders>,
    /// The count of ends when the link began.
    born: u64,
    /// Bytes were thrown away: the stream has a hole and must not flow again.
    holed: AtomicBool,
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>, orders: watch::Receiver<Orders>) -> Self {
        let born = orders.borrow().ended;
        Self {
            shared,
            orders,
            born,
            holed: AtomicBool::new(false),
        }
    }

    pub(super) async fn run(self, mut client: TcpStream) {
        let server = self.orders.borrow().server;
        let Ok(mut server) = TcpStream::connect(server).await else {
            end(client, End::Reset).await;
            return;
        };
        // Small frames must not wait for each other because a proxy stands between.
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);

        let _open = OpenConnection::count(&self.shared);
        let how = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let upwards = self.pump(from_client, to_server, Direction::ToServer);
            let downwards = self.pump(from_server, to_client, Direction::ToClient);
            tokio::select! {
                how = self.told_to_end() => how,
                outcome = async { tokio::try_join!(upwards, downwards) } => match outcome {
                    Ok(_) => End::Cut,
                    // One side was reset, so the other shall learn it the same way.
                    Err(_) => End::Reset,
                },
            }
        };
        end(client, how).await;
        end(server, how).await;
    }

    async fn told_to_end(&self) -> End {
        let mut orders = self.orders.clone();
        let told = orders
            .wait_for(|orders| {
                let healed = orders.traffic != Traffic::DropReplies;
                orders.ended > self.born || (healed && self.holed.load(Ordering::Relaxed))
            })
            .await;
        told.map_or(End::Reset, |orders| {
            if orders.ended > self.born {
                orders.end
            } else {
                End::Reset
            }
        })
    }

    /// Passes bytes on until the source ends.
    ///
    /// Reading and writing run apart, so that a delay holds every byte back by the same time
    /// instead of letting one chunk through per delay.
    async fn pump(
        &self,
        mut source: ReadHalf<'_>,
        mut sink: WriteHalf<'_>,
        direction: Direction,
    ) -> io::Result<()> {
        let (chunks, mut arriving) = mpsc::channel(UNDER_WAY);
        let reading = async {
            loop {
                let mut bytes = Vec::with_capacity(CHUNK);
                let ended = source.read_buf(&mut bytes).await? == 0;
                // The end of the stream travels like bytes do: as an empty chunk.
                let _ = chunks.send((Instant::now(), bytes)).await;
                if ended {
                    return io::Result::Ok(());
                }
            }
        };
        let writing = async {
            let mut pace = Instant::now();
            while let Some((read_at, bytes)) = arriving.recv().await {
                let mut rest = &bytes[..];
                loop {
                    let traffic = self.clear_road(direction, read_at, pace).await;
                    if bytes.is_empty() {
                        return sink.shutdown().await;
                    }
                    if traffic == Traffic::DropReplies && direction == Direction::ToClient {
                        self.holed.store(true, Ordering::Relaxed);
                        self.shared
                            .count(|counts| counts.dropped += rest.len() as u64);
                        break;
                    }
                    let (portion, takes) = traffic.portion(rest.len());
                    self.pass_on(&rest[..portion], &mut sink, direction).await?;
                    pace = Instant::now() + takes;
                    rest = &rest[portion..];
                    if rest.is_empty() {
                        break;
                    }
                }
            }
            Ok(())
        };
        tokio::try_join!(reading, writing)?;
        Ok(())
    }

    /// Waits until bytes that were read at `read_at` may go on, and gives the order they go under.
    ///
    /// A throttle, while there is one, also holds them back until `pace`.
    async fn clear_road(&self, direction: Direction, read_at: Instant, pace: Instant) -> Traffic {
        let mut orders = self.orders.clone();
        loop {
            let traffic = orders.borrow_and_update().traffic;
            let due = match traffic {
                Traffic::Delay(latency) => read_at + latency,
                Traffic::Throttle(_) => pace,
                Traffic::Pass | Traffic::Stall { .. } | Traffic::DropReplies => read_at,
            };
            if !traffic.stalls(direction) && due <= Instant::now() {
                return traffic;
            }
            tokio::select! {
                changed = orders.changed() => if changed.is_err() {
                    return traffic;
                },
                () = sleep_until(due), if !traffic.stalls(direction) => {}
            }
        }
    }

    async fn pass_on(
        &self,
        bytes: &[u8],
        sink: &mut WriteHalf<'_>,
        direction: Direction,
    ) -> io::Result<()> {
        let (allowed, last) = self.spend(direction, bytes.len());
        // Before the write, so that whoever has seen a byte finds it counted.
        self.shared
            .count(|counts| *passed(counts, direction) += allowed as u64);
        sink.write_all(&bytes[..allowed]).await?;
        let Some(how) = last else {
            return Ok(());
        };
        self.shared.orders.send_modify(|orders| {
            orders.budget = None;
            orders.end_all(how);
        });
        // `told_to_end` sees it and drops this future.
        std::future::pending().await
    }

    fn spend(&self, direction: Direction, wanted: usize) -> (usize, Option<End>) {
        match &self.orders.borrow().budget {
            None => (wanted, None),
            Some(budget) => budget.take(direction, wanted),
        }
    }
}

fn passed(counts: &mut Counts, direction: Direction) -> &mut u64 {
    match direction {
        Direction::ToServer => &mut counts.to_server,
        Direction::ToClient => &mut counts.to_client,
    }
}

/// Ends one side of a link.
pub(super) async fn end(mut stream: TcpStream, how: End) {
    // Both fail on a socket that is gone already, which is what is wanted.
    match how {
        End::Reset => {
            let _ = stream.set_zero_linger();
        }
        // A socket that is closed with unread bytes in it sends a reset in place of an end.
        End::Cut => {
            let _ = stream.shutdown().await;
        }
    }
}

/// Counts a connection as open for as long as it lives.
struct OpenConnection(Arc<Shared>);

impl OpenConnection {
    fn count(shared: &Arc<Shared>) -> Self {
        shared.count(|counts| counts.open += 1);
        Self(Arc::clone(shared))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.count(|counts| counts.open -= 1);
    }
}
