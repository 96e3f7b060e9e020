//! Runs the examples that check themselves and fail when something is not as they say.

use crate::cargo::{Cargo, cargo};
use crate::rabbit::{Node, Presence};
use crate::report::Report;

const SELF_CHECKING: [&str; 1] = ["pool_tcp"];

/// These take the broker that `AMQP_URL` names.
const WITH_RABBITMQ: [&str; 6] = [
    "channel_pool",
    "several_brokers",
    "topology",
    "publish",
    "consume",
    "request_reply",
];

/// Enough for the connection to be cut three times on the way.
const QUICKSTART_MESSAGES: &str = "10000";

pub(crate) fn run(report: &mut Report) {
    for name in SELF_CHECKING {
        report.step(format!("example {name}"), || example(name).run());
    }
}

pub(crate) fn run_with_rabbitmq(report: &mut Report, presence: Presence) {
    // Starts a broker of its own, as it does for whoever tries it first.
    presence.step(report, "example quickstart".into(), || {
        example("quickstart")
            .args(["--", QUICKSTART_MESSAGES])
            .run()
    });
    let mut node = None;
    presence.step(report, "a RabbitMQ for the examples".into(), || {
        node = Some(Node::start()?);
        Ok(())
    });
    let Some(Node { url, .. }) = &node else {
        return;
    };
    for name in WITH_RABBITMQ {
        presence.step(report, format!("example {name}"), || {
            example(name).env("AMQP_URL", url).run()
        });
    }
}

fn example(name: &str) -> Cargo {
    cargo("run --release --example").arg(name)
}
