//! Confirms, returns, refusals of messages, transactions, and faults at the publish.

use std::sync::{Arc, Mutex};

use amq_protocol::protocol::tx;

use super::{
    super::super::{Fate, Interference, Message, Peer, Release},
    *,
};

#[test]
fn confirms_of_a_batch_go_out_as_one() {
    let mut scene = Scene::new();
    let id = scene.publisher();
    scene.declare(id, "q");
    for _ in 0..3 {
        scene.publish(id, to("q"), b"m");
    }
    assert_eq!(scene.hear(id), ["1 ack 3 multiple"]);
    scene.publish(id, to("q"), b"m");
    assert_eq!(scene.hear(id), ["1 ack 4"]);
    assert_eq!(scene.engine.queue_depth("/", "q"), Some((4, 0)));
}

#[test]
fn a_confirm_never_waits_behind_an_answer() {
    let mut scene = Scene::new();
    let id = scene.publisher();
    scene.publish(id, to("none"), b"m");
    let heard = scene.say(id, 1, declare("q"));
    assert_eq!(heard, ["1 ack 1", "1 declare-ok q 0 0"]);
    scene.publish(id, to("q"), b"m");
    assert_eq!(scene.say(id, 1, channel_close()), ["1 ack 2", "1 close-ok"]);
}

#[test]
fn a_mandatory_message_without_a_queue_comes_back_before_its_confirm() {
    let mut scene = Scene::new();
    let id = scene.publisher();
    let mandatory = basic::Publish {
        mandatory: true,
        ..to("none")
    };
    scene.publish(id, mandatory, b"m");
    scene.publish(id, to("none"), b"n");
    let heard = scene.hear(id);
    assert_eq!(heard, ["1 return 312 NO_ROUTE: m", "1 ack 2 multiple"]);
}

#[test]
fn messages_that_cannot_be_are_refused_in_rabbitmqs_words() {
    let immediate = basic::Publish {
        immediate: true,
        ..to("q")
    };
    let missing = basic::Publish {
        exchange: "none".into(),
        ..to("q")
    };
    let plain = BasicProperties::default;
    for (publish, properties, close) in [
        (
            immediate,
            plain(),
            "0 close 540 NOT_IMPLEMENTED - immediate=true (60, 40)",
        ),
        (
            missing,
            plain(),
            "1 close 404 NOT_FOUND - no exchange 'none' in vhost '/' (60, 40)",
        ),
        (
            to("q"),
            plain().with_user_id("other".into()),
            "1 close 406 PRECONDITION_FAILED - user_id property set to 'other' but authenticated \
             user was 'guest' (60, 40)",
        ),
        (
            to("q"),
            plain().with_expiration("abc".into()),
            "1 close 406 PRECONDITION_FAILED - invalid expiration 'abc': no_integer (60, 40)",
        ),
    ] {
        let mut scene = Scene::new();
        let id = scene.on_channel();
        scene.publish_with(id, publish, properties, b"m");
        assert_eq!(scene.hear(id), [close]);
    }
}

#[test]
fn the_claimed_size_of_a_body_is_checked_before_the_body_comes() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    let publish = AMQPClass::Basic(basic::AMQPMethod::Publish(to("q")));
    scene.method(id, 1, publish.clone());
    scene.give(id, header(60, 1_001, BasicProperties::default()));
    let close = "1 close 406 PRECONDITION_FAILED - message size 1001 is larger than configured \
                 max size 1000 (60, 40)";
    assert_eq!(scene.hear(id), [close]);
    let id = scene.on_channel();
    scene.method(id, 1, publish);
    scene.give(id, header(60, 3, BasicProperties::default()));
    scene.give(id, Frame::Body(1, Bytes::from_static(b"four")));
    let close =
        "0 close 501 FRAME_ERROR - content body is larger than its header announced (60, 40)";
    assert_eq!(scene.hear(id), [close]);
}

#[test]
fn a_body_in_pieces_is_one_message() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.declare(id, "q");
    scene.method(id, 1, AMQPClass::Basic(basic::AMQPMethod::Publish(to("q"))));
    scene.give(id, header(60, 5, BasicProperties::default()));
    for piece in [&b"he"[..], b"", b"llo"] {
        scene.give(id, Frame::Body(1, Bytes::from_static(piece)));
    }
    let heard = scene.say(id, 1, consume("q", "c"));
    assert_eq!(heard, ["1 consume-ok c", "1 deliver c 1: hello"]);
}

#[test]
fn a_transaction_publishes_and_acknowledges_at_its_commit() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.declare(id, "q");
    let rollback = || AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {}));
    assert_eq!(scene.say(id, 1, tx_select()), ["1 select-ok"]);
    scene.publish(id, to("q"), b"lost");
    assert_eq!(scene.say(id, 1, rollback()), ["1 rollback-ok"]);
    scene.publish(id, to("q"), b"kept");
    assert_eq!(scene.engine.queue_depth("/", "q"), Some((0, 0)));
    assert_eq!(scene.say(id, 1, tx_commit()), ["1 commit-ok"]);
    let heard = scene.say(id, 1, consume("q", "c"));
    assert_eq!(heard, ["1 consume-ok c", "1 deliver c 1: kept"]);
    scene.say(id, 1, ack(1, false));
    assert_eq!(scene.engine.queue_depth("/", "q"), Some((0, 1)));
    scene.say(id, 1, rollback());
    scene.say(id, 1, ack(1, false));
    scene.say(id, 1, tx_commit());
    assert_eq!(scene.engine.queue_depth("/", "q"), Some((0, 0)));
}

#[test]
fn a_message_of_a_transaction_goes_where_it_was_routed_when_it_was_published() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.declare(id, "q");
    scene.say(id, 1, bind("q", "amq.fanout"));
    let onward = || basic::Publish {
        exchange: "amq.fanout".into(),
        mandatory: true,
        ..to("")
    };
    scene.say(id, 1, tx_select());
    scene.publish(id, onward(), b"routed");
    let unbind = queue::AMQPMethod::Unbind(queue::Unbind {
        queue: "q".into(),
        exchange: "amq.fanout".into(),
        routing_key: "".into(),
        arguments: FieldTable::default(),
    });
    scene.say(id, 1, AMQPClass::Queue(unbind));
    scene.publish(id, onward(), b"unroutable");
    scene.say(id, 1, bind("q", "amq.fanout"));
    assert_eq!(scene.engine.queue_depth("/", "q"), Some((0, 0)));
    let heard = scene.say(id, 1, tx_commit());
    assert_eq!(heard, ["1 return 312 NO_ROUTE: unroutable", "1 commit-ok"]);
    let heard = scene.say(id, 1, consume("q", "c"));
    assert_eq!(heard, ["1 consume-ok c", "1 deliver c 1: routed"]);
}

#[test]
fn a_queue_that_is_gone_at_the_commit_gets_nothing_and_one_of_its_name_gets_it() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    let mandatory = |queue| basic::Publish {
        mandatory: true,
        ..to(queue)
    };
    scene.declare(id, "gone");
    scene.declare(id, "again");
    scene.say(id, 1, tx_select());
    scene.publish(id, mandatory("gone"), b"lost");
    scene.publish(id, mandatory("again"), b"found");
    scene.say(id, 1, delete("gone"));
    scene.say(id, 1, delete("again"));
    scene.declare(id, "again");
    let heard = scene.say(id, 1, tx_commit());
    assert_eq!(heard, ["1 return 312 NO_ROUTE: lost", "1 commit-ok"]);
    assert_eq!(scene.engine.queue_depth("/", "again"), Some((1, 0)));
}

fn tx_select() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {}))
}

fn tx_commit() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {}))
}

fn bind(queue: &str, exchange: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.into(),
        exchange: exchange.into(),
        ..queue::Bind::default()
    }))
}

fn delete(queue: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
        queue: queue.into(),
        ..queue::Delete::default()
    }))
}

#[test]
fn confirms_and_transactions_do_not_mix() {
    let mut scene = Scene::new();
    let id = scene.publisher();
    let close = "1 close 406 PRECONDITION_FAILED - cannot switch from confirm to tx mode (90, 10)";
    assert_eq!(scene.say(id, 1, tx_select()), [close]);
    let id = scene.on_channel();
    scene.say(id, 1, tx_select());
    let confirm = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
    let close = "1 close 406 PRECONDITION_FAILED - cannot switch from tx to confirm mode (85, 10)";
    assert_eq!(scene.say(id, 1, AMQPClass::Confirm(confirm)), [close]);
    let id = scene.on_channel();
    let close = "1 close 406 PRECONDITION_FAILED - channel is not transactional (90, 20)";
    assert_eq!(scene.say(id, 1, tx_commit()), [close]);
}

/// Gives each message the fate its body names, and releases what a test says.
#[derive(Clone, Default)]
struct Script {
    held: Arc<Mutex<Vec<Release>>>,
    due: Arc<Mutex<Vec<Release>>>,
}

impl Script {
    /// Lets the oldest confirm go that is held.
    fn release(&self) {
        let oldest = self.held.lock().expect("no panic").remove(0);
        self.due.lock().expect("no panic").push(oldest);
    }
}

impl Interference for Script {
    fn open(&mut self, _: &Peer, _: Instant) -> Option<(u16, String)> {
        None
    }

    fn publish(&mut self, _: &Peer, release: Release, message: &Message, _: Instant) -> Fate {
        match &message.body[..] {
            b"nack" => Fate::Nacked,
            b"hold" => {
                self.held.lock().expect("no panic").push(release);
                Fate::Withheld
            }
            b"back" => Fate::Returned,
            b"twice" => Fate::RoutedTwice,
            b"close" => Fate::ChannelClosed {
                code: 406,
                text: "as asked".to_owned(),
            },
            _ => Fate::Routed,
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn due(&mut self, _: Instant, into: &mut Vec<Release>) {
        into.append(&mut self.due.lock().expect("no panic"));
    }
}

#[test]
fn faults_decide_what_becomes_of_a_message_and_its_confirm() {
    let mut scene = Scene::new();
    let script = Script::default();
    scene.engine.interfere(Box::new(script.clone()));
    let id = scene.publisher();
    scene.declare(id, "q");
    for body in [&b"a"[..], b"nack", b"b", b"hold", b"c", b"back", b"twice"] {
        scene.publish(id, to("q"), body);
    }
    let heard = scene.hear(id);
    let expected = [
        "1 return 312 NO_ROUTE: back",
        "1 ack 1 multiple",
        "1 ack 3",
        "1 ack 5",
        "1 ack 6",
        "1 ack 7",
        "1 nack 2",
    ];
    assert_eq!(heard, expected);
    assert_eq!(scene.engine.queue_depth("/", "q"), Some((6, 0)));
    script.release();
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.hear(id), ["1 ack 4"]);
    scene.publish(id, to("q"), b"close");
    assert_eq!(scene.hear(id), ["1 close 406 as asked (60, 40)"]);
}

/// It confirmed the message with the same number on the next channel with the same number.
#[test]
fn a_confirm_that_was_held_back_is_not_told_to_the_next_channel() {
    let mut scene = Scene::new();
    let script = Script::default();
    scene.engine.interfere(Box::new(script.clone()));
    let id = scene.publisher();
    scene.publish(id, to("none"), b"hold");
    scene.say(id, 1, channel_close());
    scene.say(id, 1, channel_open());
    let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
    scene.say(id, 1, AMQPClass::Confirm(select));
    scene.publish(id, to("none"), b"hold");
    for heard in [&[][..], &["1 ack 1"]] {
        script.release();
        scene.pass(Duration::from_millis(1));
        assert_eq!(scene.hear(id), heard);
    }
}
