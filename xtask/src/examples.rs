//! Runs the examples that check themselves and fail when something is not as they say.

use crate::cargo::{Cargo, cargo};
use crate::rabbit::{Node, Presence};
use crate::report::Report;

const SELF_CHECKING: [&str; 2] = ["pool_tcp", "peers"];

/// These have a broker inside, or take the one that `AMQP_URL` names.
const WITH_BROKER: [(&str, &[&str]); 9] = [
    // Each quarter of the messages ends with a cut, so that few will do.
    ("quickstart", &["--", "10000"]),
    ("channel_pool", &[]),
    ("several_brokers", &[]),
    ("topology", &[]),
    ("publish", &[]),
    ("consume", &[]),
    ("request_reply", &[]),
    ("outbox", &[]),
    ("websocket_ingest", &[]),
];

pub(crate) fn run(report: &mut Report) {
    for name in SELF_CHECKING {
        report.step(format!("example {name}"), || example(name).run());
    }
    for (name, args) in WITH_BROKER {
        // Whatever whoever runs this has in the environment.
        let inside = example(name).args(args).env("AMQP_URL", "");
        report.step(format!("example {name}"), || inside.run());
    }
}

pub(crate) fn run_with_rabbitmq(report: &mut Report, presence: Presence) {
    let mut node = None;
    presence.step(report, "a RabbitMQ for the examples".into(), || {
        node = Some(Node::start()?);
        Ok(())
    });
    let Some(Node { url, .. }) = &node else {
        return;
    };
    for (name, args) in WITH_BROKER {
        let outside = example(name).args(args).env("AMQP_URL", url);
        presence.step(report, format!("example {name}, with RabbitMQ"), || {
            outside.run()
        });
    }
}

fn example(name: &str) -> Cargo {
    cargo("run --release --example").arg(name)
}
