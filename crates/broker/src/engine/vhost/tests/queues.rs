//! Queues come and go, and are refused in RabbitMQ's words.

use super::*;

const LOCKED: &str = "cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be \
                      originally declared on another connection or the exclusive property value \
                      does not match that of the original declaration.";

#[test]
fn a_queue_without_a_name_gets_one() {
    let mut scene = Scene::new();
    let info = scene.declare("", &FieldTable::default());
    let name = info.expect("there is room").name;
    assert!(name.starts_with("amq.gen-") && name.len() == 30, "{name}");
    let other = scene.declare("", &FieldTable::default());
    assert_ne!(other.expect("there is room").name, name);
}

#[test]
fn a_declaration_tells_what_waits_and_who_consumes() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.outlet.room.insert(1, 1);
    scene.subscribe(1, "q");
    for body in ["a", "b", "c"] {
        scene.publish("", "q", body);
    }
    let info = QueueInfo {
        name: "q".into(),
        messages: 2,
        consumers: 1,
    };
    assert_eq!(scene.declare("q", &FieldTable::default()), Ok(info.clone()));
    assert_eq!(scene.host.check_queue(me(), "q", scene.now), Ok(info));
}

#[test]
fn a_queue_that_differs_is_refused() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-message-ttl", int(1_000))]);
    let same = table([("x-message-ttl", AMQPValue::LongLongInt(1_000))]);
    assert!(scene.declare("q", &same).is_ok());
    let unknown = table([
        ("x-message-ttl", int(1_000)),
        ("x-queue-type", text("classic")),
        ("x-mine", int(1)),
    ]);
    assert!(scene.declare("q", &unknown).is_ok());
    for (arguments, difference) in [
        (
            table([("x-message-ttl", int(2_000))]),
            "'x-message-ttl' for queue 'q' in vhost '/': received '2000' but current is '1000'",
        ),
        (
            table([]),
            "'x-message-ttl' for queue 'q' in vhost '/': received none but current is the value \
             '1000' of type 'signedint'",
        ),
        (
            table([
                ("x-message-ttl", int(1_000)),
                ("x-overflow", text("drop-head")),
            ]),
            "'x-overflow' for queue 'q' in vhost '/': received the value 'drop-head' of type \
             'longstr' but current is none",
        ),
    ] {
        let expected = (406, format!("inequivalent arg {difference}"));
        assert_eq!(refused(scene.declare("q", &arguments)), expected);
    }
    let none = FieldTable::default();
    let durable = QueueSpec {
        name: "q",
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: &none,
    };
    assert_eq!(
        refused(scene.host.declare_queue(me(), durable, scene.now)),
        (
            406,
            "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is \
             'false'"
                .to_owned()
        )
    );
}

#[test]
fn an_exclusive_queue_is_its_connections_alone_and_goes_with_it() {
    let mut scene = Scene::new();
    let none = FieldTable::default();
    let spec = QueueSpec {
        name: "q",
        durable: true,
        exclusive: true,
        auto_delete: false,
        arguments: &none,
    };
    let (now, you) = (scene.now, ConnectionId::of_test(2));
    assert!(scene.host.declare_queue(me(), spec, now).is_ok());
    assert!(scene.host.declare_queue(me(), spec, now).is_ok());
    let open = QueueSpec {
        exclusive: false,
        ..spec
    };
    let locked = (405, LOCKED.to_owned());
    let (host, outlet) = (&mut scene.host, &mut scene.outlet);
    assert_eq!(refused(host.declare_queue(me(), open, now)), locked);
    assert_eq!(refused(host.declare_queue(you, spec, now)), locked);
    assert_eq!(refused(host.check_queue(you, "q", now)), locked);
    assert_eq!(refused(host.purge_queue(you, "q")), locked);
    assert_eq!(refused(host.get(you, "q", true, now, outlet)), locked);
    let binding = binding_spec("amq.direct", "q", "", &none);
    assert_eq!(refused(host.bind(you, binding)), locked);
    assert_eq!(host.unbind(you, binding), Ok(()));
    let deleted = host.delete_queue(you, "q", false, false, outlet);
    assert_eq!(refused(deleted), locked);
    let theirs = ConsumerSpec {
        key: ConsumerKey {
            channel: ChannelKey {
                connection: you,
                channel: 1,
            },
            number: 9,
        },
        queue: "q",
        no_ack: false,
        exclusive: false,
        arguments: &none,
    };
    assert_eq!(refused(host.subscribe(theirs)), locked);
    assert_eq!(scene.publish("", "q", "m").queues, 1);
    scene.subscribe(1, "q");
    scene.host.drop_owner(me(), &mut scene.outlet);
    assert_eq!(scene.trace(), ["1<-m", "1 cancelled"]);
    assert_eq!(
        refused(scene.host.check_queue(me(), "q", now)),
        (404, "no queue 'q' in vhost '/'".to_owned())
    );
}

#[test]
fn wrong_arguments_are_refused() {
    let mut scene = Scene::new();
    let prefix = |key: &str| format!("invalid arg '{key}' for queue 'q' in vhost '/'");
    for (key, value, why) in [
        (
            "x-message-ttl",
            text("a"),
            ": \"expected integer, got longstr\"",
        ),
        ("x-message-ttl", int(-1), ": {value_negative,-1}"),
        (
            "x-message-ttl",
            AMQPValue::LongLongInt(315_360_000_001),
            ": {value_too_large,315360000001}",
        ),
        ("x-expires", int(0), ": {value_zero,0}"),
        ("x-max-length", int(-5), ": {value_negative,-5}"),
        (
            "x-max-length-bytes",
            AMQPValue::Double(1.0),
            ": \"expected integer, got double\"",
        ),
        ("x-max-priority", int(256), ": {max_value_exceeded,256}"),
        ("x-overflow", text("spill"), ": invalid_overflow"),
        ("x-overflow", int(5), ": {unacceptable_type,signedint}"),
        (
            "x-single-active-consumer",
            int(1),
            ": {unacceptable_type,signedint}",
        ),
        (
            "x-dead-letter-routing-key",
            text("k"),
            ": routing_key_but_no_dlx_defined",
        ),
        (
            "x-queue-type",
            text("own"),
            ": \"unsupported queue type 'own'\"",
        ),
        (
            "x-queue-mode",
            text("odd"),
            ": \"unsupported queue mode 'odd'\"",
        ),
        (
            "x-queue-version",
            int(3),
            ": \"unsupported queue version '3'\"",
        ),
        (
            "x-delivery-limit",
            int(3),
            " of queue type rabbit_classic_queue",
        ),
    ] {
        let arguments = table([(key, value)]);
        let expected = (406, prefix(key) + why);
        assert_eq!(refused(scene.declare("q", &arguments)), expected);
    }
    assert_eq!(
        refused(scene.declare("q", &table([("x-dead-letter-exchange", int(1))]))),
        (
            406,
            "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'"
                .to_owned()
        )
    );
    let quorum = table([("x-queue-type", text("quorum"))]);
    assert_eq!(refused(scene.declare("q", &quorum)).0, 540);
    assert_eq!(
        refused(scene.declare("amq.q", &FieldTable::default())),
        (
            403,
            "queue name 'amq.q' contains reserved prefix 'amq.*'".to_owned()
        )
    );
    assert_eq!(scene.host.queue_depth("q"), None);
}

#[test]
fn deletion_and_purge_count_what_was_ready() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    for body in ["a", "b", "c"] {
        scene.publish("", "q", body);
    }
    let host = &mut scene.host;
    let got = host.get(me(), "q", false, scene.now, &mut scene.outlet);
    let got = got.expect("it exists").expect("it has messages");
    assert_eq!((got.remaining, body_of(&got.lent)), (2, "a"));
    assert_eq!(host.purge_queue(me(), "q"), Ok(2));
    let back = (got.lent.queue, got.lent.number, Settlement::Requeue);
    host.settle([], [back], scene.now, &mut scene.outlet);
    let text = "queue 'q' in vhost '/' not empty".to_owned();
    let deleted = host.delete_queue(me(), "q", false, true, &mut scene.outlet);
    assert_eq!(refused(deleted), (406, text));
    scene.outlet.room.insert(1, 0);
    scene.subscribe(1, "q");
    let host = &mut scene.host;
    let text = "queue 'q' in vhost '/' in use".to_owned();
    let deleted = host.delete_queue(me(), "q", true, false, &mut scene.outlet);
    assert_eq!(refused(deleted), (406, text));
    let deleted = host.delete_queue(me(), "q", false, false, &mut scene.outlet);
    assert_eq!(deleted, Ok(1));
    let deleted = host.delete_queue(me(), "q", true, true, &mut scene.outlet);
    assert_eq!(deleted, Ok(0));
    let purged = refused(host.purge_queue(me(), "q"));
    assert_eq!(purged, (404, "no queue 'q' in vhost '/'".to_owned()));
}

#[test]
fn higher_priorities_leave_first_and_those_above_the_highest_count_as_it() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-max-priority", int(5))]);
    for (body, priority) in [
        ("none", None),
        ("zero", Some(0)),
        ("five", Some(5)),
        ("three", Some(3)),
        ("nine", Some(9)),
        ("one", Some(1)),
    ] {
        let properties = BasicProperties::default();
        let properties = match priority {
            Some(priority) => properties.with_priority(priority),
            None => properties,
        };
        scene.publish_with("", "q", body, properties);
    }
    assert_eq!(
        scene.drain("q"),
        ["five", "nine", "three", "one", "none", "zero"]
    );
}

#[test]
fn without_priorities_a_message_keeps_its_turn() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.publish("", "q", "a");
    let urgent = BasicProperties::default().with_priority(9);
    scene.publish_with("", "q", "b", urgent);
    assert_eq!(scene.drain("q"), ["a", "b"]);
}
