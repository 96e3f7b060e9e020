//! Memory alarms, clients that do not read, and heartbeats.

use super::*;

#[test]
fn a_publisher_under_an_alarm_is_told_and_not_read_from() {
    let mut scene = Scene::new();
    let publisher = scene.publisher();
    let bystander = scene.on_channel();
    scene.declare(publisher, "q");
    scene.engine.block("low on patience");
    assert!(scene.engine.wants_more(publisher));
    scene.publish(publisher, to("q"), b"m");
    assert_eq!(
        scene.hear(publisher),
        ["0 blocked low on patience", "1 ack 1"]
    );
    assert!(!scene.engine.wants_more(publisher));
    assert!(scene.engine.wants_more(bystander));
    for _ in 0..10 {
        scene.pass(Duration::from_secs(30));
        scene.give(bystander, Frame::Heartbeat);
        assert_eq!(scene.hear(publisher), ["heartbeat"], "its silence is ours");
    }
    scene.engine.touched().for_each(drop);
    scene.engine.unblock(scene.now);
    assert!(scene.engine.touched().any(|id| id == publisher));
    assert_eq!(scene.hear(publisher), ["0 unblocked"]);
    assert!(scene.engine.wants_more(publisher));
}

#[test]
fn a_publisher_that_cannot_hear_of_the_alarm_is_read_from_when_it_is_over() {
    let mut scene = Scene::new();
    let id = scene.started();
    let mute = start_ok_of(FieldTable::default(), "PLAIN", b"\0guest\0guest");
    scene.say(id, 0, mute);
    scene.say(id, 0, tune_ok(1, 8_192, 0));
    scene.say(id, 0, open("/"));
    scene.say(id, 1, channel_open());
    scene.engine.block("low on patience");
    scene.publish(id, to("none"), b"m");
    assert!(scene.hear(id).is_empty());
    assert!(!scene.engine.wants_more(id));
    scene.engine.touched().for_each(drop);
    scene.engine.unblock(scene.now);
    assert!(scene.engine.touched().any(|woken| woken == id));
    assert!(scene.hear(id).is_empty());
}

#[test]
fn messages_beyond_the_memory_limit_block_publishers_until_they_are_taken() {
    let mut settings = settings();
    settings.memory_limit = 10_000;
    let mut scene = Scene::with(settings);
    let id = scene.on_channel();
    scene.declare(id, "q");
    let mut published = 0;
    while scene.engine.wants_more(id) {
        scene.publish(id, to("q"), &[0; 500]);
        published += 1;
        assert!(published < 30, "no alarm");
    }
    assert!(
        scene
            .hear(id)
            .contains(&"0 blocked low on memory".to_owned())
    );
    let consumer = scene.on_channel();
    let purge = queue::AMQPMethod::Purge(queue::Purge {
        queue: "q".into(),
        nowait: false,
    });
    scene.say(consumer, 1, AMQPClass::Queue(purge));
    assert!(scene.engine.wants_more(id));
    assert_eq!(scene.hear(id), ["0 unblocked"]);
}

/// It lasted until somebody sent a frame, and publishers send none.
#[test]
fn an_alarm_ends_when_unacknowledged_deliveries_are_written() {
    let mut settings = settings();
    settings.memory_limit = 20_000;
    let mut scene = Scene::with(settings);
    let publisher = scene.on_channel();
    let consumer = scene.on_channel();
    scene.declare(publisher, "q");
    let consume = basic::AMQPMethod::Consume(basic::Consume {
        queue: "q".into(),
        consumer_tag: "c".into(),
        no_local: false,
        no_ack: true,
        exclusive: false,
        nowait: true,
        arguments: FieldTable::default(),
    });
    scene.say(consumer, 1, AMQPClass::Basic(consume));
    while scene.engine.wants_more(publisher) {
        scene.publish(publisher, to("q"), &[0; 500]);
    }
    scene.hear(publisher);
    while scene.engine.queue_depth("/", "q") != Some((0, 0)) {
        assert!(!scene.hear(consumer).is_empty());
    }
    assert!(scene.engine.wants_more(publisher));
    assert_eq!(scene.hear(publisher), ["0 unblocked"]);
}

/// What is purged is dropped in portions, and held until then.
#[test]
fn an_alarm_lasts_until_what_was_purged_is_dropped() {
    let mut settings = settings();
    settings.memory_limit = 10_000_000;
    let mut scene = Scene::with(settings);
    let id = scene.on_channel();
    scene.declare(id, "q");
    while scene.engine.wants_more(id) {
        scene.publish(id, to("q"), b"m");
    }
    let other = scene.on_channel();
    let purge = queue::AMQPMethod::Purge(queue::Purge {
        queue: "q".into(),
        nowait: false,
    });
    scene.say(other, 1, AMQPClass::Queue(purge));
    assert_eq!(scene.engine.queue_depth("/", "q"), Some((0, 0)));
    assert!(!scene.engine.wants_more(id));
    let mut portions = 0;
    while !scene.engine.wants_more(id) {
        let due = scene.engine.next_deadline();
        assert!(due.is_some_and(|due| due <= scene.now), "it asks for more");
        scene.pass(Duration::ZERO);
        portions += 1;
        assert!(portions < 100, "no end");
    }
}

#[test]
fn an_answer_waits_until_the_expired_messages_in_its_way_are_gone() {
    let mut settings = settings();
    settings.memory_limit = usize::MAX;
    let mut scene = Scene::with(settings);
    let id = scene.on_channel();
    scene.declare(id, "q");
    for _ in 0..4_000 {
        let short = BasicProperties::default().with_expiration("10".into());
        scene.publish_with(id, to("q"), short, b"expired");
    }
    scene.publish(id, to("q"), b"lasting");
    scene.now += Duration::from_millis(10);
    let get = |queue: &str| {
        let get = basic::AMQPMethod::Get(basic::Get {
            queue: queue.into(),
            no_ack: true,
        });
        Frame::Method(1, AMQPClass::Basic(get))
    };
    let declare = Frame::Method(1, declare("q"));
    for frame in [get("q"), get(""), declare] {
        assert!(scene.engine.must_wait(id, &frame, scene.now));
    }
    assert!(!scene.engine.must_wait(id, &get("q"), scene.now));
    scene.give(id, get("q"));
    assert_eq!(scene.hear(id), ["1 get-ok 1, 0 left: lasting"]);
}

#[test]
fn a_client_that_does_not_read_gets_no_more_than_its_outbox_holds() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.declare(id, "q");
    scene.say(id, 1, consume("q", "t"));
    for _ in 0..100 {
        scene.publish(id, to("q"), b"m");
    }
    let (ready, lent) = scene.engine.queue_depth("/", "q").expect("the queue");
    assert!(lent < 20 && ready + lent == 100, "{ready} {lent}");
    let mut heard = 0;
    let mut rounds = 0;
    while heard < 100 {
        heard += scene.hear(id).len();
        rounds += 1;
        assert!(rounds < 100, "deliveries stopped at {heard}");
    }
}

#[test]
fn a_client_that_asks_and_does_not_read_is_not_heard_either() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    let mut asked = 0;
    while scene.engine.wants_more(id) {
        scene.method(id, 1, declare("q"));
        asked += 1;
        assert!(asked < 100, "read for ever");
    }
    let mut outputs = Vec::new();
    let cost = scene.engine.drain(id, &mut outputs);
    assert!(
        !scene.engine.wants_more(id),
        "what is drained is not written yet"
    );
    scene.engine.touched().for_each(drop);
    scene.engine.written(id, cost, scene.now);
    assert!(scene.engine.wants_more(id));
    assert!(scene.engine.touched().any(|woken| woken == id));
}

#[test]
fn verdicts_that_nobody_reads_do_not_pile_up() {
    let mut scene = Scene::new();
    let id = scene.publisher();
    let mut published = 0_u64;
    while scene.engine.wants_more(id) {
        scene.publish(id, to("none"), b"");
        published += 1;
        assert!(published < 1_000_000, "read for ever");
    }
    let heard = scene.hear(id);
    assert!(heard.len() < 100, "{}", heard.len());
    assert_eq!(heard.last(), Some(&format!("1 ack {published} multiple")));
}

#[test]
fn consumers_that_come_and_go_unheard_leave_nothing_behind() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.declare(id, "q");
    for _ in 0..30 {
        scene.publish(id, to("q"), b"m");
    }
    scene.method(id, 1, consume("q", "t"));
    for _ in 0..1_000 {
        let consume = basic::AMQPMethod::Consume(basic::Consume {
            queue: "q".into(),
            consumer_tag: "u".into(),
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: true,
            arguments: FieldTable::default(),
        });
        let cancel = basic::AMQPMethod::Cancel(basic::Cancel {
            consumer_tag: "u".into(),
            nowait: true,
        });
        scene.method(id, 1, AMQPClass::Basic(consume));
        scene.method(id, 1, AMQPClass::Basic(cancel));
    }
    assert!(scene.engine.sessions.starved(id) < 10);
}

#[test]
fn heartbeats_go_out_when_nothing_else_does() {
    let mut scene = Scene::new();
    let id = scene.client();
    scene.pass(Duration::from_secs(29));
    assert!(scene.hear(id).is_empty());
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.hear(id), ["heartbeat"]);
}

#[test]
fn a_silent_client_is_given_up_after_two_heartbeats() {
    let mut scene = Scene::new();
    let silent = scene.client();
    let alive = scene.client();
    for _ in 0..4 {
        scene.pass(Duration::from_secs(30));
        scene.give(alive, Frame::Heartbeat);
        scene.hear(alive);
    }
    assert_eq!(scene.hear(silent).last().map(String::as_str), Some("shut"));
    assert!(scene.engine.wants_more(alive));
}

#[test]
fn ids_of_connections_that_are_gone_find_nothing() {
    let mut scene = Scene::new();
    let id = scene.on_channel();
    scene.engine.disconnect(id, scene.now);
    scene.method(id, 1, declare("q"));
    assert!(scene.hear(id).is_empty());
    assert!(!scene.engine.wants_more(id));
    assert!(scene.engine.peer(id).is_none());
    assert_eq!(scene.engine.next_deadline(), None);
    assert_ne!(scene.connect(), id);
}
