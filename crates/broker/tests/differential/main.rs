//! The same clients on this broker and on RabbitMQ: replies, refusals, deliveries, returns,
//! confirms and what is in the queues must agree.
//!
//! Random sequences of operations go through lapin, step by step on both; what lapin would not
//! send goes as bare frames. What cannot agree is left out in [`normal`], with the reason; what
//! does not agree and stays so is listed in [`differences`], with the reason.

mod compare;
mod declaring;
mod differences;
mod disorder;
mod frames;
mod handshakes;
mod link;
mod messaging;
mod methods;
mod normal;
mod operations;
mod random;
mod refusals;
mod side;
mod topology;

use std::net::SocketAddr;

use futures_util::future::{join, join_all};
use wharf_broker::Broker;
use wharf_testkit::rabbit::{Rabbit, Vhost};

use compare::{Cases, compare};
use frames::{Sent, Wire};
use normal::Names;
use side::Side;

#[test]
fn random_operations_have_the_outcomes_they_have_on_rabbitmq() {
    compare(
        &Cases::from_environment(25),
        vhosts,
        &async |(vhost, _): &Vhosts| {
            let broker = broker(vhost.name()).await;
            let url = broker.url_of("guest", "guest", vhost.name());
            let ours = Side::new(url, vhost.name(), broker).await;
            (ours, rabbitmq(vhost).await)
        },
        Some(&|vhosts| Box::pin(twins(vhosts))),
    );
}

/// RabbitMQ leaves some things to chance, and nothing can be compared with those. A scenario that
/// runs into them disagrees here, too.
#[test]
fn rabbitmq_agrees_with_itself() {
    compare(&Cases::from_environment(5), vhosts, &twins, None);
}

#[tokio::test]
async fn what_is_refused_is_refused_as_on_rabbitmq() {
    let vhost = Rabbit::shared().await.vhost().await;
    let broker = broker(vhost.name()).await;
    let ours = refused(broker.addr(), vhost.name());
    let theirs = refused(vhost.rabbit().amqp_addr(), vhost.name());
    let (ours, theirs) = join(ours, theirs).await;
    assert_agree(&ours, &theirs);
}

#[tokio::test]
async fn who_does_not_get_in_is_told_so_as_by_rabbitmq() {
    let vhost = Rabbit::shared().await.vhost().await;
    let broker = broker(vhost.name()).await;
    let ours = turned_away(broker.addr(), vhost.name());
    let theirs = turned_away(vhost.rabbit().amqp_addr(), vhost.name());
    let (ours, theirs) = join(ours, theirs).await;
    assert_agree(&ours, &theirs);
}

type Vhosts = (Vhost, Vhost);

async fn vhosts() -> Vhosts {
    let rabbit = Rabbit::shared().await;
    (rabbit.vhost().await, rabbit.vhost().await)
}

async fn rabbitmq(vhost: &Vhost) -> Side {
    Side::new(vhost.url(), vhost.name(), ()).await
}

async fn twins((one, other): &Vhosts) -> (Side, Side) {
    (rabbitmq(one).await, rabbitmq(other).await)
}

/// A broker whose vhost and user have the names that those of RabbitMQ have.
async fn broker(vhost: &str) -> Broker {
    let builder = Broker::builder().user("guest", "guest").vhost(vhost);
    builder.start().await.expect("a broker")
}

/// A title, and what came back.
type Outcome = (String, Vec<String>);

async fn refused(addr: SocketAddr, vhost: &str) -> Vec<Outcome> {
    let names = Names::new(vhost.to_owned());
    let mut ground = Wire::open(addr, vhost).await;
    for sent in refusals::ground() {
        ground.send(&sent).await;
    }
    ground.answers().await;
    ground.close().await;
    let mut outcomes = Vec::new();
    for case in refusals::cases() {
        let mut wire = Wire::open(addr, vhost).await;
        let mut answers = Vec::new();
        for sent in case.sent.iter().chain(&[Sent::Pause]) {
            wire.send(sent).await;
            match sent {
                Sent::Pause => answers.extend(wire.answers().await),
                Sent::Committed => answers.extend(wire.committed().await),
                Sent::End => answers.extend(wire.last_words().await),
                _ => {}
            }
        }
        wire.close().await;
        let answers = answers.iter().map(|line| names.text(line)).collect();
        outcomes.push((case.title, answers));
    }
    outcomes
}

async fn turned_away(addr: SocketAddr, vhost: &str) -> Vec<Outcome> {
    let openings = handshakes::openings(vhost);
    join_all(openings.into_iter().map(|opening| async move {
        let connected = Wire::connect(addr, opening.header).await;
        let mut wire = connected.expect("a connection");
        for sent in &opening.sent {
            wire.send(sent).await;
        }
        let mut answers = wire.last_words().await;
        // What a broker has to offer is its own.
        answers.retain(|line| !line.contains("(Start(") && !line.contains("(Tune("));
        (opening.title.to_owned(), answers)
    }))
    .await
}

fn assert_agree(ours: &[Outcome], theirs: &[Outcome]) {
    let pairs = ours.iter().zip(theirs);
    let disagreements: Vec<_> = pairs
        .filter(|((title, ours), (_, theirs))| (ours == theirs) == differences::stays(title))
        .map(|((title, ours), (_, theirs))| {
            format!("{title}:\n  here:     {ours:?}\n  RabbitMQ: {theirs:?}")
        })
        .collect();
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}
