//! How much there may be of what.

use super::*;

#[test]
fn above_its_length_a_queue_drops_its_head() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-max-length", int(2))]);
    for body in ["a", "b", "c", "d"] {
        assert!(!scene.publish("", "q", body).rejected);
    }
    assert_eq!(scene.drain("q"), ["c", "d"]);
}

#[test]
fn above_its_bytes_a_queue_drops_as_many_as_it_takes() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-max-length-bytes", int(5))]);
    for body in ["aaa", "bb", "c"] {
        scene.publish("", "q", body);
    }
    assert_eq!(scene.drain("q"), ["bb", "c"]);
    scene.publish("", "q", "seventy");
    assert_eq!(scene.drain("q"), [""; 0]);
}

#[test]
fn a_queue_that_rejects_keeps_what_it_has() {
    let mut scene = Scene::new();
    let overflow = ("x-overflow", text("reject-publish"));
    scene.queue("q", [("x-max-length", int(2)), overflow]);
    scene.queue("free", []);
    for queue in ["q", "free"] {
        scene.bind("amq.fanout", queue, "");
    }
    let rejected: Vec<bool> = ["a", "b", "c"]
        .map(|body| scene.publish("amq.fanout", "", body).rejected)
        .into();
    assert_eq!(rejected, [false, false, true]);
    assert_eq!(scene.drain("free"), ["a", "b", "c"]);
    assert_eq!(scene.drain("q"), ["a", "b"]);
}

#[test]
fn loans_do_not_count_and_what_comes_back_may_be_dropped() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-max-length", int(1))]);
    scene.outlet.room.insert(1, 1);
    scene.subscribe(1, "q");
    scene.publish("", "q", "a");
    scene.publish("", "q", "b");
    assert_eq!(scene.host.queue_depth("q"), Some((1, 1)));
    scene.settle("a", Settlement::Requeue);
    assert_eq!(scene.drain("q"), ["b"]);
}

/// As on RabbitMQ 3.10.8. One by one, what comes back first might be dropped for want of room that an
/// older message, which comes back after it, then finds.
#[test]
fn heads_are_dropped_when_all_that_comes_back_at_once_is_there() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-max-length-bytes", int(5))]);
    scene.outlet.room.insert(1, 2);
    scene.subscribe(1, "q");
    for body in ["aa", "bbbb", "cc"] {
        scene.publish("", "q", body);
    }
    assert_eq!(scene.trace(), ["1<-aa", "1<-bbbb"]);
    let back = scene.outlet.lent.drain(..).rev();
    let back = back.map(|lent| (lent.queue, lent.number, Settlement::Requeue));
    let back: Vec<_> = back.collect();
    scene.host.settle([], back, scene.now, &mut scene.outlet);
    assert_eq!(scene.drain("q"), ["cc"]);
}

#[test]
fn a_queue_without_room_still_hands_messages_to_its_consumers() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-max-length", int(0))]);
    scene.publish("", "q", "a");
    scene.subscribe(1, "q");
    scene.publish("", "q", "b");
    assert_eq!(scene.trace(), ["1<-b"]);
}

#[test]
fn the_hosts_limits_refuse_what_is_above_them() {
    let mut scene = Scene::within(Limits {
        max_exchanges: 7,
        max_queues: 2,
        max_bindings: 1,
        max_argument_bytes: usize::MAX,
        max_queue_length: Some(2),
        max_queue_bytes: Some(3),
    });
    scene.exchange("x", "fanout");
    let none = FieldTable::default();
    let result = scene
        .host
        .declare_exchange(exchange_spec("y", "fanout", &none));
    assert_eq!(
        refused(result),
        (
            406,
            "cannot declare exchange 'y': exchange limit in vhost '/' (7) is reached".to_owned()
        )
    );
    scene.queue("q", []);
    scene.queue("r", []);
    scene.queue("q", []);
    assert_eq!(
        refused(scene.declare("s", &none)),
        (
            406,
            "cannot declare queue 's': queue limit in vhost '/' (2) is reached".to_owned()
        )
    );
    scene.bind("x", "q", "");
    scene.bind("x", "q", "");
    let spec = binding_spec("x", "r", "", &none);
    assert_eq!(refused(scene.host.bind(me(), spec)).0, 406);
    let rejected: Vec<bool> = ["a", "bbb", "b", "c"]
        .map(|body| scene.publish("", "q", body).rejected)
        .into();
    assert_eq!(rejected, [false, true, false, true]);
    assert_eq!(scene.drain("q"), ["a", "b"]);
}

/// A message costs its body once however many queues it is in, and nothing when it has left them
/// all.
#[test]
fn memory_counts_a_body_once_and_forgets_it_with_its_last_place() {
    let mut scene = Scene::new();
    for queue in ["p", "q", "r"] {
        scene.queue(queue, []);
        scene.bind("amq.fanout", queue, "");
    }
    let body = "m".repeat(100_000);
    scene.publish("amq.fanout", "", &body);
    let held = scene.host.held_bytes();
    assert!((100_000..102_000).contains(&held), "{held}");
    scene.take("p");
    scene.subscribe(1, "q");
    assert!(scene.host.held_bytes() > 100_000);
    scene.settle(&body, Settlement::Ack);
    assert_eq!(scene.host.purge_queue(me(), "r"), Ok(1));
    assert_eq!(scene.host.held_bytes(), 0);
    scene.publish("", "nowhere", &body);
    assert_eq!(scene.host.held_bytes(), 0);
}

#[test]
fn memory_counts_headers() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    let inner = table([("b", text(&"b".repeat(10_000)))]);
    let headers = table([("a", AMQPValue::FieldTable(inner))]);
    let properties = BasicProperties::default().with_headers(headers);
    scene.publish_with("", "q", "", properties);
    assert!(scene.host.held_bytes() > 10_000);
}

#[test]
fn arguments_are_bounded_by_their_bytes_and_forgotten_with_what_they_belong_to() {
    let mut scene = Scene::within(Limits {
        max_argument_bytes: 10_000,
        ..LIMITS
    });
    let large = table([("x", text(&"x".repeat(6_000)))]);
    let third = table([("x", text(&"x".repeat(2_000)))]);
    let none = FieldTable::default();
    let exchange = |arguments| ExchangeSpec {
        arguments,
        ..exchange_spec("x", "headers", arguments)
    };
    scene.declare("q", &large).expect("it fits");
    scene.declare("q", &large).expect("it is there already");
    assert_eq!(
        refused(scene.declare("r", &large)),
        (
            406,
            "cannot declare queue 'r': argument bytes limit in vhost '/' (10000) is reached"
                .to_owned()
        )
    );
    scene.declare("r", &none).expect("it has none");
    let refusal = refused(scene.host.declare_exchange(exchange(&large)));
    let told = "cannot declare exchange 'x': argument bytes limit in vhost '/' (10000) is reached";
    assert_eq!(refusal, (406, told.to_owned()));
    let bind = |scene: &mut Scene| {
        let spec = binding_spec("amq.headers", "r", "", &third);
        scene.host.bind(me(), spec)
    };
    let told = "cannot bind to exchange 'amq.headers' in vhost '/': argument bytes limit in vhost \
                '/' (10000) is reached";
    assert_eq!(refused(bind(&mut scene)), (406, told.to_owned()));
    for _ in 0..3 {
        let (host, outlet) = (&mut scene.host, &mut scene.outlet);
        host.delete_queue(me(), "q", false, false, outlet)
            .expect("it is deleted");
        bind(&mut scene).expect("there is room");
        bind(&mut scene).expect("it is there already");
        assert_eq!(refused(scene.declare("q", &large)).0, 406);
        let spec = binding_spec("amq.headers", "r", "", &third);
        scene.host.unbind(me(), spec).expect("it is there");
        scene
            .host
            .declare_exchange(exchange(&large))
            .expect("there is room");
        assert_eq!(refused(scene.declare("q", &large)).0, 406);
        scene.host.delete_exchange("x", false).expect("it is there");
        scene.declare("q", &large).expect("there is room");
    }
}
