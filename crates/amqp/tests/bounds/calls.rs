//! The calls, and what comes of each.

#![allow(
    clippy::async_yields_async,
    reason = "what is prepared is a call to be made later"
)]

use std::{fmt::Debug, future::Future, pin::Pin};

use futures_util::future::join_all;
use wharf_amqp::{
    Clients, ClientsConfig, Cluster, Config, Message, Publisher,
    consumer::{ConsumeError, Consumer, Delivery, Outcome},
    topology::{Queue, Topology},
};
use wharf_testkit::wait::eventually;

use crate::{BOUND, FOR_EVER};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum State {
    Blocked,
    /// Nothing comes back, nothing fails.
    Silent,
}

impl State {
    /// A broker that blocks publishers serves all others, newcomers too.
    fn outcomes(
        self,
        well: &'static [&'static str],
        silent: &'static [&'static str],
    ) -> &'static [&'static str] {
        match self {
            State::Blocked => well,
            State::Silent => silent,
        }
    }
}

/// A call: `prepare` runs while all is well and gives a future that makes the call, which is polled
/// when it is not. Expected is how `Debug` of the outcome begins, or one of several ways.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) expected: &'static [&'static str],
    pub(crate) prepare: Box<dyn Fn(Site) -> Later<Later<String>>>,
}

pub(crate) type Later<T> = Pin<Box<dyn Future<Output = T>>>;

/// What a call has to itself.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) queue: String,
    pub(crate) config: Config,
}

impl Call {
    fn new<P, C, T>(
        name: &'static str,
        expected: &'static [&'static str],
        prepare: fn(Site) -> P,
    ) -> Self
    where
        P: Future<Output = C> + 'static,
        C: Future<Output = T> + 'static,
        T: Debug,
    {
        Self {
            name,
            expected,
            prepare: Box::new(move |site| {
                let prepared = prepare(site);
                Box::pin(async move {
                    let call = prepared.await;
                    let made: Later<String> = Box::pin(async move { format!("{:?}", call.await) });
                    made
                })
            }),
        }
    }
}

/// Calls on a cluster that has no connection yet.
pub(crate) fn first_calls(state: State) -> Vec<Call> {
    let calls = vec![
        Call::new(
            "connect",
            state.outcomes(&["Ok"], &["Err(Connect(Timeout"]),
            |site| async move { async move { Cluster::from_config(site.config).connect().await } },
        ),
        Call::new("Clients::connect", &["Ok"], |site| async move {
            let config = ClientsConfig::new().cluster("one", site.config);
            async move { Clients::connect(config).await }
        }),
        Call::new(
            "get a channel",
            state.outcomes(&["Ok"], &["Err(Timeout"]),
            |site| async move { async move { site.cluster.channels().get().await.map(drop) } },
        ),
        Call::new(
            "get a confirm channel",
            state.outcomes(&["Ok"], &["Err(Timeout"]),
            |site| async move {
                async move { site.cluster.confirm_channels().get_owned().await.map(drop) }
            },
        ),
        Call::new(
            "declare",
            state.outcomes(&["Ok"], &["Err(TopologyError"]),
            |site| async move { async move { site.cluster.declare(&topology(&site.queue)).await } },
        ),
        Call::new(
            "publish",
            // It is this message that the broker blocks the connection for.
            state.outcomes(&["Ok(Unknown"], &["Err(TimedOut"]),
            |site| async move {
                let publisher = publisher(&site.cluster).await;
                async move { publisher.publish(message(&site.queue)).await }
            },
        ),
        Call::new(
            "start a consumer",
            state.outcomes(&["Ok"], &["Err(Timeout", "Err(Channel(Timeout"]),
            |site| async move { async move { start(&site).await.map(drop) } },
        ),
        Call::new(
            "stream",
            state.outcomes(&["Ok"], &["Err(Timeout", "Err(Channel(Timeout"]),
            |site| async move {
                async move {
                    Consumer::builder(&site.cluster, &site.queue)
                        .stream()
                        .await
                        .map(drop)
                }
            },
        ),
        Call::new("close a cluster", &["()"], |site| async move {
            async move { site.cluster.close_within(BOUND).await }
        }),
    ];
    calls.into_iter().chain(with_a_topology(state)).collect()
}

/// Calls on a cluster whose connections were well until now.
pub(crate) fn later_calls(state: State) -> Vec<Call> {
    let calls = vec![
        Call::new("get an idle channel", &["Ok"], |site| async move {
            // The one that has the connection blocked is discarded.
            let two = join_all((0..2).map(|_| site.cluster.channels().get())).await;
            assert!(two.iter().all(Result::is_ok));
            drop(two);
            async move { site.cluster.channels().get().await.map(drop) }
        }),
        Call::new("get another channel", &["Err(Timeout"], |site| async move {
            let lease = site.cluster.channels().get_owned().await.unwrap();
            async move {
                let other = site.cluster.channels().get().await.map(drop);
                drop(lease);
                other
            }
        }),
        Call::new(
            "get another confirm channel in time",
            &["Err(Timeout"],
            |site| async move {
                let lease = site.cluster.confirm_channels().get_owned().await.unwrap();
                async move {
                    let other = site
                        .cluster
                        .confirm_channels()
                        .get_timeout(BOUND)
                        .await
                        .map(drop);
                    drop(lease);
                    other
                }
            },
        ),
        Call::new("close a pool", &["()"], |site| async move {
            drop(site.cluster.channels().get().await.unwrap());
            async move { site.cluster.channels().close().await }
        }),
        Call::new("close a pool in time", &["Ok", "Err"], |site| async move {
            drop(site.cluster.channels().get().await.unwrap());
            async move { site.cluster.channels().close_within(BOUND).await }
        }),
        Call::new("close a cluster", &["()"], |site| async move {
            drop(site.cluster.channels().get().await.unwrap());
            let consumer = start(&site).await.unwrap();
            async move {
                site.cluster.close_within(BOUND).await;
                drop(consumer);
            }
        }),
        Call::new(
            "close a cluster with a channel lent",
            &["()"],
            |site| async move {
                let lease = site.cluster.channels().get_owned().await.unwrap();
                async move {
                    site.cluster.close_within(BOUND).await;
                    drop(lease);
                }
            },
        ),
        Call::new("close clients", &["()"], |site| async move {
            let config = ClientsConfig::new().cluster("one", site.config);
            let clients = Clients::connect(config).await.unwrap();
            async move { clients.close_within(BOUND).await }
        }),
        Call::new(
            "connect",
            state.outcomes(&["Ok"], &["Err(Connect(Timeout"]),
            |site| async move { async move { Cluster::from_config(site.config).connect().await } },
        ),
        Call::new(
            "declare",
            // Not on a connection that is blocked.
            state.outcomes(&["Ok"], &["Err(TopologyError"]),
            |site| async move { async move { site.cluster.declare(&topology(&site.queue)).await } },
        ),
        Call::new(
            "declare again",
            state.outcomes(&["Ok"], &["Err(TopologyError"]),
            |site| async move {
                let declared = site.cluster.declare(&topology(&site.queue)).await;
                let declaration = declared.unwrap();
                async move { declaration.declare().await }
            },
        ),
        Call::new("build a publisher", &["Ok"], |site| async move {
            async move { Publisher::builder(&site.cluster).build().await }
        }),
        Call::new(
            "publish",
            state.outcomes(&["Err(TimedOut"], &["Ok(Unknown"]),
            |site| async move {
                let publisher = publisher(&site.cluster).await;
                warm(&publisher, &site).await;
                async move { publisher.publish(message(&site.queue)).await }
            },
        ),
        Call::new(
            "publish into a full window",
            // What is not sent leaves the window at its deadline, which is that of who waits.
            state.outcomes(&["Err(WindowFull", "Err(TimedOut"], &["Err(WindowFull"]),
            |site| async move {
                let builder = Publisher::builder(&site.cluster).window(1);
                let publisher = builder.deadline(BOUND).build().await.unwrap();
                warm(&publisher, &site).await;
                async move {
                    let first = publisher.publish(message(&site.queue));
                    let second = publisher.publish(message(&site.queue));
                    tokio::join!(first, second).1
                }
            },
        ),
        Call::new("flush", &["Err(Unresolved"], |site| async move {
            let publisher = patient_publisher(&site.cluster).await;
            publisher.publish(message(&site.queue)).await.unwrap();
            async move {
                let publishing = publisher.publish(message(&site.queue));
                tokio::select! {
                    biased;
                    _ = publishing => panic!("published, in this state"),
                    flushed = publisher.flush(BOUND) => flushed,
                }
            }
        }),
        Call::new(
            "close a publisher",
            &["Err(Unresolved"],
            |site| async move {
                let publisher = patient_publisher(&site.cluster).await;
                publisher.publish(message(&site.queue)).await.unwrap();
                async move {
                    let publishing = publisher.publish(message(&site.queue));
                    tokio::select! {
                        biased;
                        _ = publishing => panic!("published, in this state"),
                        closed = publisher.close_within(BOUND) => closed,
                    }
                }
            },
        ),
        Call::new(
            "start a consumer",
            state.outcomes(&["Ok"], &["Err(Timeout", "Err(Channel(Timeout"]),
            |site| async move {
                let first = start(&site).await.unwrap();
                async move {
                    let second = start(&site).await.map(drop);
                    drop(first);
                    second
                }
            },
        ),
        Call::new(
            "stop a consumer",
            state.outcomes(&["Ok"], &["Err(NoAnswer"]),
            |site| async move {
                let consumer = start(&site).await.unwrap();
                async move { consumer.stop_within(BOUND).await }
            },
        ),
        Call::new(
            "stop a stream",
            state.outcomes(&["Ok"], &["Err(NoAnswer"]),
            |site| async move {
                let stream = Consumer::builder(&site.cluster, &site.queue).stream();
                let deliveries = stream.await.unwrap();
                async move { deliveries.stop_within(BOUND).await }
            },
        ),
        Call::new("settle", &["Ok"], |site| async move {
            let stream = Consumer::builder(&site.cluster, &site.queue).stream();
            let mut deliveries = stream.await.unwrap();
            let publisher = publisher(&site.cluster).await;
            publisher.publish(message(&site.queue)).await.unwrap();
            let delivery = deliveries.next().await.unwrap();
            async move {
                let settled = delivery.ack();
                drop(deliveries);
                settled
            }
        }),
        Call::new("drop everything", &["()"], |site| async move {
            let publisher = publisher(&site.cluster).await;
            let consumer = start(&site).await.unwrap();
            let lease = site.cluster.channels().get_owned().await.unwrap();
            async move { drop((lease, consumer, publisher, site)) }
        }),
    ];
    calls.into_iter().chain(with_a_topology(state)).collect()
}

/// Those that end the same way whether there was a connection before or not.
fn with_a_topology(state: State) -> [Call; 2] {
    [
        Call::new(
            "build a publisher with a topology",
            state.outcomes(&["Ok"], &["Err(TopologyError"]),
            |site| async move {
                let builder = Publisher::builder(&site.cluster).topology(topology(&site.queue));
                async move { builder.build().await }
            },
        ),
        Call::new(
            "start a consumer with a topology",
            state.outcomes(
                &["Ok"],
                &["Err(Timeout", "Err(Channel(Timeout", "Err(Topology"],
            ),
            |site| async move {
                let builder = Consumer::builder(&site.cluster, "mine");
                let builder = builder.topology(topology(&site.queue));
                async move {
                    builder
                        .start(async |_: Delivery| Outcome::Ack)
                        .await
                        .map(drop)
                }
            },
        ),
    ]
}

fn topology(queue: &str) -> Topology {
    Topology::new()
        .queue(Queue::durable(format!("{queue}.durable")))
        .queue(Queue::temporary("mine"))
}

fn message(queue: &str) -> Message {
    Message::new("body").to("", queue)
}

async fn publisher(cluster: &Cluster) -> Publisher {
    let builder = Publisher::builder(cluster).deadline(BOUND);
    builder.build().await.unwrap()
}

/// Publishes one, and waits until its channel is back in the pool, or there would be none to publish
/// the next on.
async fn warm(publisher: &Publisher, site: &Site) {
    let receipt = publisher.publish(message(&site.queue)).await;
    assert!(receipt.unwrap().is_confirmed());
    eventually("the channel is back", FOR_EVER, async || {
        site.cluster.confirm_channels().status().idle == 1
    })
    .await;
}

async fn patient_publisher(cluster: &Cluster) -> Publisher {
    let builder = Publisher::builder(cluster).deadline(2 * FOR_EVER);
    builder.build().await.unwrap()
}

async fn start(site: &Site) -> Result<Consumer, ConsumeError> {
    let builder = Consumer::builder(&site.cluster, &site.queue);
    builder.start(async |_: Delivery| Outcome::Ack).await
}
