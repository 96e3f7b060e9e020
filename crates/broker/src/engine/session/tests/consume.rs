//! Deliveries, acknowledgements, prefetch and the end of consumers.

use super::*;

/// A client on whose queue `q` the bodies `a`, `b` and `c` wait.
fn three_waiting(scene: &mut Scene) -> ConnectionId {
    let id = scene.on_channel();
    scene.declare(id, "q");
    for body in [&b"a"[..], b"b", b"c"] {
        scene.publish(id, to("q"), body);
    }
    id
}

fn nack(delivery_tag: u64, multiple: bool, requeue: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack {
        delivery_tag,
        multiple,
        requeue,
    }))
}

#[test]
fn the_answer_to_consume_comes_before_its_first_delivery() {
    let mut scene = Scene::new();
    let id = three_waiting(&mut scene);
    let heard = scene.say(id, 1, consume("q", "t"));
    let expected = [
        "1 consume-ok t",
        "1 deliver t 1: a",
        "1 deliver t 2: b",
        "1 deliver t 3: c",
    ];
    assert_eq!(heard, expected);
}

#[test]
fn a_consumer_without_a_tag_gets_one() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.declare(id, "q");
    let heard = scene.say(id, 1, consume("q", ""));
    assert!(heard[0].starts_with("1 consume-ok amq.ctag-"), "{heard:?}");
}

#[test]
fn a_tag_in_use_is_not_given_twice() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.declare(id, "q");
    scene.say(id, 1, consume("q", "t"));
    let close = "0 close 530 NOT_ALLOWED - attempt to reuse consumer tag 't' (60, 20)";
    assert_eq!(scene.say(id, 1, consume("q", "t")), [close]);
}

#[test]
fn a_consumer_has_no_more_than_its_prefetch_unacknowledged() {
    let mut scene = Scene::new();
    let id = three_waiting(&mut scene);
    assert_eq!(scene.say(id, 1, qos(1, false)), ["1 qos-ok"]);
    let heard = scene.say(id, 1, consume("q", "t"));
    assert_eq!(heard, ["1 consume-ok t", "1 deliver t 1: a"]);
    assert_eq!(scene.say(id, 1, ack(1, false)), ["1 deliver t 2: b"]);
    assert_eq!(
        scene.say(id, 1, nack(2, false, false)),
        ["1 deliver t 3: c"]
    );
}

#[test]
fn a_global_prefetch_is_shared_by_the_consumers_of_a_channel() {
    let mut scene = Scene::new();
    let id = three_waiting(&mut scene);
    scene.say(id, 1, qos(2, true));
    let heard = scene.say(id, 1, consume("q", "t"));
    assert_eq!(heard.len(), 3);
    assert_eq!(scene.say(id, 1, consume("q", "u")), ["1 consume-ok u"]);
    let heard = scene.say(id, 1, ack(1, false));
    assert_eq!(heard.len(), 1);
    assert!(heard[0].ends_with("3: c"), "{heard:?}");
    scene.publish(id, to("q"), b"d");
    assert!(scene.hear(id).is_empty());
    let heard = scene.say(id, 1, qos(0, true));
    assert_eq!(heard.len(), 2);
    assert!(heard[1].ends_with("4: d"), "{heard:?}");
}

/// Resumed one after the other, the one who had the last message would have the next, too.
#[test]
fn the_consumers_of_a_channel_take_turns_within_a_global_prefetch() {
    let mut scene = Scene::new();
    let id = three_waiting(&mut scene);
    scene.say(id, 1, qos(1, true));
    let heard = scene.say(id, 1, consume("q", "t"));
    assert_eq!(heard, ["1 consume-ok t", "1 deliver t 1: a"]);
    assert_eq!(scene.say(id, 1, consume("q", "u")), ["1 consume-ok u"]);
    for body in [b"d", b"e"] {
        scene.publish(id, to("q"), body);
    }
    assert_eq!(scene.say(id, 1, ack(1, false)), ["1 deliver t 2: b"]);
    let turns = [(2, "u", "c"), (3, "t", "d"), (4, "u", "e")];
    for (tag, consumer, body) in turns {
        let heard = scene.say(id, 1, ack(tag, false));
        assert_eq!(heard, [format!("1 deliver {consumer} {}: {body}", tag + 1)]);
    }
}

/// As on RabbitMQ 3.10.8, where the channel's limiter hears of it before the queue asks it.
#[test]
fn what_a_channel_gives_back_may_come_to_it_again_within_a_global_prefetch() {
    let mut scene = Scene::new();
    let (one, other) = (scene.on_channel(), scene.on_channel());
    scene.declare(one, "q");
    scene.say(one, 1, consume("q", "t"));
    scene.say(other, 1, consume("q", "u"));
    scene.publish(one, to("q"), b"a");
    assert_eq!(scene.hear(one), ["1 deliver t 1: a"]);
    scene.say(one, 1, qos(1, true));
    scene.publish(other, to("q"), b"b");
    assert_eq!(scene.hear(other), ["1 deliver u 1: b"]);
    let heard = scene.say(one, 1, nack(1, false, true));
    assert_eq!(heard, ["1 deliver t 2 again: a"]);
    assert!(scene.hear(other).is_empty());
}

#[test]
fn what_was_got_counts_against_a_global_prefetch() {
    let mut scene = Scene::new();
    let id = three_waiting(&mut scene);
    scene.say(id, 1, qos(2, true));
    let get = basic::AMQPMethod::Get(basic::Get {
        queue: "q".into(),
        no_ack: false,
    });
    let heard = scene.say(id, 1, AMQPClass::Basic(get));
    assert_eq!(heard, ["1 get-ok 1, 2 left: a"]);
    let heard = scene.say(id, 1, consume("q", "t"));
    assert_eq!(heard, ["1 consume-ok t", "1 deliver t 2: b"]);
    assert_eq!(scene.say(id, 1, ack(1, false)), ["1 deliver t 3: c"]);
}

#[test]
fn an_unknown_delivery_tag_closes_the_channel() {
    for method in [ack(7, false), ack(7, true), nack(0, false, true)] {
        let tag = if method == nack(0, false, true) { 0 } else { 7 };
        let id_of_method = if tag == 0 { 120 } else { 80 };
        let mut scene = Scene::new();
        let id = three_waiting(&mut scene);
        scene.say(id, 1, consume("q", "t"));
        let close = format!(
            "1 close 406 PRECONDITION_FAILED - unknown delivery tag {tag} (60, {id_of_method})"
        );
        assert_eq!(scene.say(id, 1, method), [close]);
        assert_eq!(scene.engine.queue_depth("/", "q"), Some((3, 0)));
    }
}

#[test]
fn one_acknowledgement_settles_all_before_it_or_all_there_are() {
    let mut scene = Scene::new();
    let id = three_waiting(&mut scene);
    scene.say(id, 1, consume("q", "t"));
    scene.say(id, 1, ack(2, true));
    assert_eq!(scene.engine.queue_depth("/", "q"), Some((0, 1)));
    assert!(scene.say(id, 1, ack(0, true)).is_empty());
    assert_eq!(scene.engine.queue_depth("/", "q"), Some((0, 0)));
}

#[test]
fn what_a_closed_channel_had_goes_back_in_its_old_order() {
    let mut scene = Scene::new();
    let id = three_waiting(&mut scene);
    scene.say(id, 1, consume("q", "t"));
    assert_eq!(scene.say(id, 1, channel_close()), ["1 close-ok"]);
    scene.say(id, 1, channel_open());
    let heard = scene.say(id, 1, consume("q", "t"));
    let expected = [
        "1 consume-ok t",
        "1 deliver t 1 again: a",
        "1 deliver t 2 again: b",
        "1 deliver t 3 again: c",
    ];
    assert_eq!(heard, expected);
    let other = scene.on_channel();
    scene.say(other, 1, consume("q", "o"));
    scene.engine.disconnect(id, scene.now);
    assert_eq!(scene.hear(other).len(), 3);
}

/// As RabbitMQ 3.10.8 does, where all three at once would go to `s`, `t` and `s`.
#[test]
fn what_one_consumer_gives_back_is_handed_out_before_the_next_is_heard() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.declare(id, "q");
    scene.say(id, 1, consume("q", "t"));
    scene.say(id, 1, consume("q", "s"));
    for body in [&b"a"[..], b"b", b"c"] {
        scene.publish(id, to("q"), body);
    }
    let expected = ["1 deliver t 1: a", "1 deliver s 2: b", "1 deliver t 3: c"];
    assert_eq!(scene.hear(id), expected);
    let expected = [
        "1 deliver s 4 again: b",
        "1 deliver t 5 again: a",
        "1 deliver s 6 again: c",
    ];
    assert_eq!(scene.say(id, 1, nack(0, true, true)), expected);
}

#[test]
fn recover_gives_everything_back_to_be_delivered_again() {
    let mut scene = Scene::new();
    let id = three_waiting(&mut scene);
    scene.say(id, 1, qos(1, false));
    scene.say(id, 1, consume("q", "t"));
    let recover = basic::AMQPMethod::Recover(basic::Recover { requeue: true });
    let heard = scene.say(id, 1, AMQPClass::Basic(recover));
    assert_eq!(heard, ["1 recover-ok", "1 deliver t 2 again: a"]);
}

#[test]
fn cancel_ends_deliveries_and_keeps_what_was_delivered() {
    let mut scene = Scene::new();
    let id = three_waiting(&mut scene);
    scene.say(id, 1, qos(1, false));
    scene.say(id, 1, consume("q", "t"));
    let cancel = basic::AMQPMethod::Cancel(basic::Cancel {
        consumer_tag: "t".into(),
        nowait: false,
    });
    assert_eq!(scene.say(id, 1, AMQPClass::Basic(cancel)), ["1 cancel-ok"]);
    assert!(scene.say(id, 1, ack(1, false)).is_empty());
    assert_eq!(scene.engine.queue_depth("/", "q"), Some((2, 0)));
}

#[test]
fn consumers_of_a_deleted_queue_are_told_if_their_client_can_hear_it() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.declare(id, "q");
    let hears = scene.on_channel();
    scene.say(hears, 1, consume("q", "t"));
    let delete = queue::AMQPMethod::Delete(queue::Delete {
        queue: "q".into(),
        if_unused: false,
        if_empty: false,
        nowait: false,
    });
    let heard = scene.say(id, 1, AMQPClass::Queue(delete));
    assert_eq!(heard, ["1 delete-ok"]);
    assert_eq!(scene.hear(hears), ["1 cancel t"]);
    scene.say(hears, 1, declare("q"));
    assert_eq!(scene.say(hears, 1, consume("q", "t")), ["1 consume-ok t"]);
}

#[test]
fn an_exclusive_queue_goes_with_its_connection() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    let exclusive = queue::AMQPMethod::Declare(queue::Declare {
        queue: "mine".into(),
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    });
    scene.say(id, 1, AMQPClass::Queue(exclusive));
    assert_eq!(scene.engine.queue_depth("/", "mine"), Some((0, 0)));
    let close = connection::AMQPMethod::Close(connection::Close {
        reply_code: 200,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    });
    let heard = scene.say(id, 0, AMQPClass::Connection(close));
    assert_eq!(heard, ["0 close-ok", "shut"]);
    assert_eq!(scene.engine.queue_depth("/", "mine"), None);
}
