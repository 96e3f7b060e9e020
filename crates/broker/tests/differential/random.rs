//! Random scenarios.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

use crate::operations::*;

/// The steps of a random scenario, its declarations apart. The connections of one take as long as
/// fifty steps, so it pays to have many.
const LENGTH: std::ops::Range<usize> = 10..90;

pub(crate) fn scenarios() -> impl Strategy<Value = Scenario> {
    let queues = vec(queue_spec(), QUEUES);
    let exchanges = vec(exchange_spec(), EXCHANGES);
    let random = vec(step(), LENGTH);
    let bindings = vec(binding(0..QUEUES, 0..EXCHANGES + 4), 0..6);
    (queues, exchanges, bindings, random).prop_map(|(queues, exchanges, bindings, random)| {
        let declared = (0..EXCHANGES)
            .map(|exchange| Topology::DeclareExchange {
                exchange,
                twist: None,
            })
            .chain((0..QUEUES).map(|queue| Topology::DeclareQueue { queue, twist: None }))
            .chain(bindings.into_iter().map(Topology::Bind))
            .map(|topology| Step {
                connection: 0,
                channel: 0,
                operation: Operation::Topology(topology),
            });
        Scenario {
            queues,
            exchanges,
            steps: declared.chain(random).collect(),
        }
    })
}

fn queue_spec() -> impl Strategy<Value = QueueSpec> {
    let flag = || prop::bool::weighted(0.07);
    (flag(), flag(), flag(), queue_arguments()).prop_map(
        |(durable, exclusive, auto_delete, arguments)| QueueSpec {
            durable,
            exclusive,
            auto_delete,
            arguments,
        },
    )
}

fn queue_arguments() -> impl Strategy<Value = Vec<Argument>> {
    use Argument::*;
    let dead_letter = prop_oneof![
        Just(DeadLetterToLast),
        (0..EXCHANGES).prop_map(DeadLetterVia),
    ];
    let limit = prop_oneof![(0..4).prop_map(MaxLength), (0..60).prop_map(MaxBytes),];
    let overflow = select(vec!["drop-head", "reject-publish", "reject-publish-dlx"]);
    (
        weighted(0.08, select(vec![Ttl(0), Ttl(20)])),
        weighted(0.25, (limit, weighted(0.6, overflow.prop_map(Overflow)))),
        weighted(0.5, dead_letter),
        weighted(0.15, Just(SingleActive)),
        weighted(0.12, select(vec![MaxPriority(3), MaxPriority(1)])),
        weighted(0.05, Just(Expires(600_000))),
    )
        .prop_map(|(ttl, limit, dead_letter, single, priorities, expires)| {
            let (limit, overflow) = limit.map_or((None, None), |(limit, how)| (Some(limit), how));
            [
                ttl,
                limit,
                overflow,
                dead_letter,
                single,
                priorities,
                expires,
            ]
            .into_iter()
            .flatten()
            .collect()
        })
}

fn exchange_spec() -> impl Strategy<Value = ExchangeSpec> {
    (
        select(vec!["direct", "fanout", "topic", "headers"]),
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.08),
        weighted(0.2, 0..EXCHANGES),
    )
        .prop_map(
            |(kind, durable, auto_delete, internal, alternate)| ExchangeSpec {
                kind,
                durable,
                auto_delete,
                internal,
                alternate,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    (0..CONNECTIONS, 0..CHANNELS, operation()).prop_map(|(connection, channel, operation)| Step {
        connection,
        channel,
        operation,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        25 => topology().prop_map(Operation::Topology),
        100 => traffic().prop_map(Operation::Traffic),
        10 => mode().prop_map(Operation::Mode),
        3 => Just(Operation::CloseChannel),
        1 => Just(Operation::CloseConnection),
    ]
}

/// Mostly the first ones, where things come together; now and then one that the server named.
fn queue() -> impl Strategy<Value = usize> {
    prop_oneof![6 => Just(0), 4 => Just(1), 4 => 2..QUEUES, 1 => QUEUES..QUEUES + 2]
}

/// Mostly an own exchange, often one that every vhost has, seldom one that may not be used.
fn exchange() -> impl Strategy<Value = usize> {
    let own = 0..EXCHANGES;
    let common = EXCHANGES..EXCHANGES + 4;
    let neither = EXCHANGES + 4..EXCHANGES + 6;
    prop_oneof![20 => own, 6 => common, 1 => neither]
}

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.2)
}

fn topology() -> impl Strategy<Value = Topology> {
    let declare_queue = (0..QUEUES, weighted(0.25, twist()))
        .prop_map(|(queue, twist)| Topology::DeclareQueue { queue, twist });
    let declare_server_named =
        any::<(bool, bool)>().prop_map(|(exclusive, auto_delete)| Topology::DeclareServerNamed {
            exclusive,
            auto_delete,
        });
    let delete_queue = (queue(), rarely(), rarely()).prop_map(|(queue, if_unused, if_empty)| {
        Topology::DeleteQueue {
            queue,
            if_unused,
            if_empty,
        }
    });
    let declare_exchange = (0..EXCHANGES, weighted(0.5, exchange_twist()))
        .prop_map(|(exchange, twist)| Topology::DeclareExchange { exchange, twist });
    let delete_exchange =
        (exchange(), rarely()).prop_map(|(exchange, if_unused)| Topology::DeleteExchange {
            exchange,
            if_unused,
        });
    // Nothing is bound to the exchanges that every vhost has: they outlive a scenario.
    let destination = || prop_oneof![10 => 0..EXCHANGES, 1 => EXCHANGES + 4..EXCHANGES + 6];
    let bind_exchange =
        (destination(), exchange(), select(&KEYS)).prop_map(|(destination, source, key)| {
            Topology::BindExchange {
                destination,
                source,
                key,
            }
        });
    let unbind_exchange =
        (destination(), exchange(), select(&KEYS)).prop_map(|(destination, source, key)| {
            Topology::UnbindExchange {
                destination,
                source,
                key,
            }
        });
    prop_oneof![
        8 => declare_queue,
        2 => declare_server_named,
        3 => delete_queue,
        3 => queue().prop_map(|queue| Topology::Purge { queue }),
        3 => declare_exchange,
        2 => delete_exchange,
        8 => binding(queue(), exchange()).prop_map(Topology::Bind),
        4 => binding(queue(), exchange()).prop_map(Topology::Unbind),
        3 => bind_exchange,
        1 => unbind_exchange,
    ]
}

fn binding(
    queue: impl Strategy<Value = usize>,
    exchange: impl Strategy<Value = usize>,
) -> impl Strategy<Value = Binding> {
    (queue, exchange, select(&KEYS), binding_match()).prop_map(
        |(queue, exchange, key, match_on)| Binding {
            queue,
            exchange,
            key,
            match_on,
        },
    )
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let get = (queue(), prop::bool::weighted(0.3))
        .prop_map(|(queue, no_ack)| Traffic::Get { queue, no_ack });
    let settle =
        (0..64usize, verdict(), prop::bool::weighted(0.3)).prop_map(|(pick, verdict, multiple)| {
            Traffic::Settle {
                pick,
                verdict,
                multiple,
            }
        });
    let recover = prop::bool::weighted(0.95).prop_map(|requeue| Traffic::Recover { requeue });
    prop_oneof![
        30 => publish().prop_map(Traffic::Publish),
        8 => get,
        12 => consume().prop_map(Traffic::Consume),
        3 => (0..TAGS).prop_map(|tag| Traffic::Cancel { tag }),
        26 => settle,
        4 => verdict().prop_map(|verdict| Traffic::SettleAll { verdict }),
        1 => verdict().prop_map(|verdict| Traffic::SettleUnknown { verdict }),
        3 => recover,
    ]
}

fn mode() -> impl Strategy<Value = Mode> {
    let qos = (0..4u16, prop::bool::weighted(0.3))
        .prop_map(|(count, global)| Mode::Qos { count, global });
    prop_oneof![
        6 => qos,
        4 => Just(Mode::ConfirmSelect),
        2 => Just(Mode::TxSelect),
        3 => Just(Mode::TxCommit),
        1 => Just(Mode::TxRollback),
    ]
}

fn twist() -> impl Strategy<Value = Twist> {
    use Argument as A;
    let wrong = select(vec![
        A::Wrong("x-message-ttl", Wrong::Negative),
        A::Wrong("x-message-ttl", Wrong::Text),
        A::Wrong("x-max-length", Wrong::Negative),
        A::Wrong("x-overflow", Wrong::Text),
        A::Wrong("x-overflow", Wrong::Number),
        A::Wrong("x-max-priority", Wrong::Text),
        A::Wrong("x-expires", Wrong::Negative),
        A::Wrong("x-dead-letter-exchange", Wrong::Number),
        A::Wrong("x-single-active-consumer", Wrong::Text),
        A::Wrong("x-queue-type", Wrong::Text),
        A::Wrong("x-delivery-limit", Wrong::Number),
        A::Wrong("x-nobody-knows", Wrong::Number),
        A::Ttl(1000),
        A::MaxLength(9),
        A::Overflow("drop-head"),
        A::DeadLetterToLast,
        A::SingleActive,
        A::MaxPriority(2),
    ]);
    prop_oneof![
        3 => Just(Twist::Passive),
        1 => Just(Twist::Durable),
        1 => Just(Twist::AutoDelete),
        1 => Just(Twist::Exclusive),
        3 => wrong.prop_map(Twist::With),
    ]
}

fn exchange_twist() -> impl Strategy<Value = ExchangeTwist> {
    select(vec![
        ExchangeTwist::Passive,
        ExchangeTwist::Passive,
        ExchangeTwist::Durable,
        ExchangeTwist::Internal,
        ExchangeTwist::AutoDelete,
        ExchangeTwist::Kind("direct"),
        ExchangeTwist::Kind("x-unheard-of"),
    ])
}

fn binding_match() -> impl Strategy<Value = Match> {
    prop_oneof![
        12 => Just(Match::None),
        3 => Just(Match::All),
        3 => Just(Match::Any),
        1 => select(vec![Match::AnyWithX, Match::Wrong]),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        4 => Just(Verdict::Ack),
        3 => Just(Verdict::Requeue),
        2 => Just(Verdict::Discard),
        1 => any::<bool>().prop_map(|requeue| Verdict::Reject { requeue }),
    ]
}

fn publish() -> impl Strategy<Value = Publish> {
    let expiration = prop_oneof![
        9 => select(vec!["0", "20", "60000"]),
        1 => select(vec!["abc", "-1"]),
    ];
    let headers = select(vec![
        Headers::None,
        Headers::A,
        Headers::AAndB,
        Headers::Private,
    ]);
    (
        (
            weighted(0.35, exchange()),
            select(&KEYS),
            select(vec!["q0", "q0", "q0", "q1", "q1", "q2", "q3"]),
        ),
        (prop::bool::weighted(0.3), prop::bool::weighted(0.005)),
        weighted(0.12, expiration),
        weighted(0.25, 0..5u8),
        any::<bool>(),
        headers,
        prop_oneof![20 => 0..40usize, 1 => Just(150_000usize)],
        prop_oneof![3 => Just(1usize), 2 => 2..5usize],
    )
        .prop_map(
            |(
                (exchange, key, queue),
                (mandatory, immediate),
                expiration,
                priority,
                persistent,
                headers,
                size,
                times,
            )| {
                Publish {
                    exchange,
                    // Without an exchange the key names a queue, so it had better name one.
                    key: if exchange.is_some() { key } else { queue },
                    mandatory,
                    immediate,
                    expiration,
                    priority,
                    persistent,
                    headers,
                    size,
                    times,
                }
            },
        )
}

fn consume() -> impl Strategy<Value = Consume> {
    (
        queue(),
        weighted(0.9, 0..TAGS),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
        weighted(0.15, -1..3i32),
        prop::bool::weighted(0.04),
    )
        .prop_map(|(queue, tag, no_ack, exclusive, priority, reuse)| Consume {
            queue,
            tag,
            no_ack,
            exclusive,
            priority,
            reuse,
        })
}
