//! Channels open and close, and what is no method of theirs closes the connection.

use amq_protocol::protocol::exchange;

use super::*;

#[test]
fn only_open_opens_a_channel() {
    let mut scene = Scene::new();
    let id = scene.client();
    let close = "0 close 504 CHANNEL_ERROR - expected 'channel.open' (50, 10)";
    assert_eq!(scene.say(id, 5, declare("q")), [close]);
    assert!(scene.say(id, 5, channel_open()).is_empty());
    assert_eq!(scene.say(id, 0, close_ok()), ["shut"]);
}

#[test]
fn the_negotiated_number_of_channels_is_not_exceeded() {
    let mut scene = Scene::new();
    let id = scene.logged_in();
    scene.say(id, 0, tune_ok(2, 8_192, 0));
    scene.say(id, 0, open("/"));
    assert_eq!(scene.say(id, 7, channel_open()), ["7 open-ok"]);
    assert_eq!(scene.say(id, 8, channel_open()), ["8 open-ok"]);
    let close = "0 close 530 NOT_ALLOWED - number of channels opened (2) has reached the \
                 negotiated channel_max (2) (0, 0)";
    assert_eq!(scene.say(id, 9, channel_open()), [close]);
}

#[test]
fn a_closed_channel_hears_nothing_until_the_close_is_answered() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    let close = "1 close 404 NOT_FOUND - no previously declared queue (60, 20)";
    assert_eq!(scene.say(id, 1, consume("", "")), [close]);
    assert!(scene.say(id, 1, declare("q")).is_empty());
    scene.publish(id, to("q"), b"lost");
    assert!(scene.hear(id).is_empty());
    assert_eq!(scene.say(id, 1, channel_close()), ["1 close-ok"]);
    assert!(scene.say(id, 1, channel_close_ok()).is_empty());
    assert_eq!(scene.say(id, 1, channel_open()), ["1 open-ok"]);
    scene.declare(id, "q");
}

#[test]
fn a_second_open_and_an_unasked_close_ok_end_the_connection() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    let close = "0 close 504 CHANNEL_ERROR - second 'channel.open' seen (20, 10)";
    assert_eq!(scene.say(id, 1, channel_open()), [close]);
    let id = scene.on_channel();
    let close = "0 close 503 COMMAND_INVALID - unimplemented method (20, 41)";
    assert_eq!(scene.say(id, 1, channel_close_ok()), [close]);
}

#[test]
fn frames_of_content_come_in_their_order_or_end_the_connection() {
    let no_method = "expected method frame, got non method frame instead (0, 0)";
    let no_header =
        "expected content header for class 60, got non content header frame instead (60, 40)";
    let no_body = "expected content body, got non content body frame instead (60, 40)";
    let publish = || Frame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(to("q"))));
    let header = |size| header(60, size, BasicProperties::default());
    let body = || Frame::Body(1, Bytes::from_static(b"xx"));
    for (frames, text) in [
        (vec![header(1)], no_method),
        (vec![body()], no_method),
        (vec![publish(), publish()], no_header),
        (vec![publish(), body()], no_header),
        (vec![publish(), header(3), header(3)], no_body),
        (vec![publish(), header(3), body(), publish()], no_body),
        (vec![publish(), header(0), body()], no_method),
        (
            vec![publish(), super::header(20, 1, BasicProperties::default())],
            "expected content header for class 60, got one for class 20 instead (60, 40)",
        ),
    ] {
        let mut scene = Scene::new();
        let id = scene.on_channel();
        for frame in frames {
            scene.give(id, frame);
        }
        let heard = scene.hear(id);
        assert_eq!(heard, [format!("0 close 505 UNEXPECTED_FRAME - {text}")]);
    }
}

#[test]
fn what_is_not_implemented_says_so() {
    let mut scene = Scene::new();
    let flow = channel::AMQPMethod::Flow(channel::Flow { active: false });
    let recover = basic::AMQPMethod::Recover(basic::Recover { requeue: false });
    let recover_async = basic::AMQPMethod::RecoverAsync(basic::RecoverAsync { requeue: false });
    let declare_typed = |kind: &str| {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: "q".into(),
            arguments,
            ..queue::Declare::default()
        }))
    };
    for (method, text) in [
        (AMQPClass::Channel(flow), "active=false (20, 20)"),
        (AMQPClass::Basic(recover), "requeue=false (60, 110)"),
        (AMQPClass::Basic(recover_async), "requeue=false (60, 100)"),
        (
            declare_typed("quorum"),
            "queue type 'quorum' of queue 'q' in vhost '/' (50, 10)",
        ),
        (
            declare_typed("stream"),
            "queue type 'stream' of queue 'q' in vhost '/' (50, 10)",
        ),
        (
            consume("amq.rabbitmq.reply-to", ""),
            "direct reply-to (60, 20)",
        ),
    ] {
        let id = scene.on_channel();
        let heard = scene.say(id, 1, method);
        assert_eq!(heard, [format!("0 close 540 NOT_IMPLEMENTED - {text}")]);
    }
    let id = scene.on_channel();
    let by_size = Malformed::PrefetchSize {
        channel: 1,
        size: 7,
    };
    scene.engine.malformed(id, by_size, scene.now);
    let close = "0 close 540 NOT_IMPLEMENTED - prefetch_size!=0 (7) (60, 10)";
    assert_eq!(scene.hear(id), [close]);
}

#[test]
fn an_empty_name_is_that_of_the_queue_declared_last() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.declare(id, "first");
    let heard = scene.say(id, 1, declare(""));
    assert!(heard[0].starts_with("1 declare-ok amq.gen-"), "{heard:?}");
    let name = heard[0].split(' ').nth(2).expect("a name").to_owned();
    scene.publish(id, to(&name), b"a");
    let get = basic::AMQPMethod::Get(basic::Get {
        queue: "".into(),
        no_ack: true,
    });
    assert_eq!(
        scene.say(id, 1, AMQPClass::Basic(get)),
        ["1 get-ok 1, 0 left: a"]
    );
    // An empty routing key beside an empty queue, too.
    let bind = queue::AMQPMethod::Bind(queue::Bind {
        exchange: "amq.direct".into(),
        ..queue::Bind::default()
    });
    assert_eq!(scene.say(id, 1, AMQPClass::Queue(bind)), ["1 bind-ok"]);
    let bound = basic::Publish {
        exchange: "amq.direct".into(),
        ..to(&name)
    };
    scene.publish(id, bound, b"b");
    assert_eq!(scene.engine.queue_depth("/", &name), Some((1, 0)));
}

#[test]
fn nowait_is_not_answered() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    let declare = exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: "e".into(),
        kind: "fanout".into(),
        passive: false,
        durable: false,
        auto_delete: false,
        internal: false,
        nowait: true,
        arguments: FieldTable::default(),
    });
    assert!(scene.say(id, 1, AMQPClass::Exchange(declare)).is_empty());
    let check = exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: "none".into(),
        kind: "".into(),
        passive: true,
        durable: false,
        auto_delete: false,
        internal: false,
        nowait: true,
        arguments: FieldTable::default(),
    });
    let close = "1 close 404 NOT_FOUND - no exchange 'none' in vhost '/' (40, 10)";
    assert_eq!(scene.say(id, 1, AMQPClass::Exchange(check)), [close]);
}

#[test]
fn a_text_longer_than_a_short_string_is_cut() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    let name = "n".repeat(250);
    let publish = basic::Publish {
        exchange: name.as_str().into(),
        ..to("q")
    };
    scene.publish(id, publish, b"");
    let heard = scene.hear(id);
    assert!(heard[0].ends_with("nnn... (60, 40)"), "{heard:?}");
}

#[test]
fn an_operator_closes_channels_and_connections_with_words_of_its_own() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    let key = scene.engine.channels(id)[0];
    scene.engine.close_channel(key, 406, "enough", scene.now);
    assert_eq!(scene.hear(id), ["1 close 406 enough (0, 0)"]);
    scene
        .engine
        .close_connection(id, 320, "shutdown", scene.now);
    assert_eq!(scene.hear(id), ["0 close 320 shutdown (0, 0)"]);
    scene.pass(Duration::from_secs(30));
    assert_eq!(scene.hear(id), ["shut"]);
}

#[test]
fn what_a_lost_connection_was_not_sent_is_not_marked_as_delivered_before() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.say(id, 2, channel_open());
    let mut arguments = FieldTable::default();
    let single = AMQPValue::Boolean(true);
    arguments.insert("x-single-active-consumer".into(), single);
    let declare = queue::AMQPMethod::Declare(queue::Declare {
        queue: "q".into(),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments,
    });
    scene.say(id, 1, AMQPClass::Queue(declare));
    for channel in [1, 2] {
        scene.say(id, channel, qos(1, false));
        scene.say(id, channel, consume("q", "t"));
    }
    scene.publish(id, to("q"), b"sent");
    scene.publish(id, to("q"), b"waiting");
    assert_eq!(scene.hear(id), ["1 deliver t 1: sent"]);
    scene.engine.disconnect(id, scene.now);
    let next = scene.on_channel();
    let heard = scene.say(next, 1, consume("q", "n"));
    let expected = [
        "1 consume-ok n",
        "1 deliver n 1 again: sent",
        "1 deliver n 2: waiting",
    ];
    assert_eq!(heard, expected);
}
