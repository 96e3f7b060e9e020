//! Where messages go that died.

use super::*;

/// The deaths a message tells of: reason, queue and count of each, the last first.
fn deaths(lent: &Lent) -> Vec<String> {
    let headers = lent.message.properties.headers().clone();
    let headers = headers.expect("dead letters have headers");
    let deaths = headers.inner()["x-death"].as_array();
    let deaths = deaths.expect("it is a list").as_slice().iter();
    deaths
        .map(|death| {
            let death = death.as_field_table().expect("each is a table").inner();
            let text = |name: &str| match &death[name] {
                AMQPValue::LongString(text) => text.to_string(),
                other => format!("{other:?}"),
            };
            let count = death["count"].as_long_long_int();
            format!(
                "{} {} {}",
                text("reason"),
                text("queue"),
                count.expect("it counts")
            )
        })
        .collect()
}

fn scene_with_dlx() -> Scene {
    let mut scene = Scene::new();
    scene.exchange("dlx", "direct");
    scene.queue("dead", []);
    scene.bind("dlx", "dead", "q");
    scene
}

#[test]
fn a_dead_letter_tells_of_its_death_as_rabbitmqs_do() {
    let mut scene = scene_with_dlx();
    scene.queue("q", [("x-dead-letter-exchange", text("dlx"))]);
    let properties = BasicProperties::default()
        .with_expiration("2500".into())
        .with_message_id("id".into())
        .with_priority(3)
        .with_headers(table([("mine", int(1))]));
    scene.publish_with("", "q", "m", properties);
    scene.pass(millis(2_500));
    let lent = scene.take("dead").expect("it died");
    let death = table([
        ("count", AMQPValue::LongLongInt(1)),
        ("reason", text("expired")),
        ("queue", text("q")),
        ("time", AMQPValue::Timestamp(1_002)),
        ("exchange", text("")),
        (
            "routing-keys",
            AMQPValue::FieldArray(vec![text("q")].into()),
        ),
        ("original-expiration", text("2500")),
    ]);
    let deaths = AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into());
    let headers = table([
        ("mine", int(1)),
        ("x-death", deaths),
        ("x-first-death-exchange", text("")),
        ("x-first-death-queue", text("q")),
        ("x-first-death-reason", text("expired")),
    ]);
    let expected = BasicProperties::default()
        .with_message_id("id".into())
        .with_priority(3)
        .with_headers(headers);
    assert_eq!(lent.message.properties, expected);
    assert_eq!(lent.message.exchange.as_str(), "dlx");
    assert_eq!(lent.message.routing_key.as_str(), "q");
    assert!(!lent.redelivered);
}

#[test]
fn each_way_to_die_has_its_reason() {
    let mut scene = scene_with_dlx();
    let dlx = || ("x-dead-letter-exchange", text("dlx"));
    scene.queue("q", [dlx(), ("x-max-length", int(1))]);
    scene.publish("", "q", "a");
    scene.publish("", "q", "b");
    let lent = scene.take("dead").expect("there was no room for two");
    assert_eq!(
        (body_of(&lent), deaths(&lent).join("; ").as_str()),
        ("a", "maxlen q 1")
    );
    scene.subscribe(1, "q");
    scene.settle("b", Settlement::Discard);
    let lent = scene.take("dead").expect("it was rejected");
    assert_eq!(
        (body_of(&lent), deaths(&lent).join("; ").as_str()),
        ("b", "rejected q 1")
    );
    scene.unsubscribe(1);

    scene.bind("dlx", "dead", "full");
    let overflow = ("x-overflow", text("reject-publish-dlx"));
    scene.queue("full", [dlx(), ("x-max-length", int(0)), overflow]);
    assert!(scene.publish("", "full", "c").rejected);
    let lent = scene.take("dead").expect("it found no room");
    assert_eq!(
        (body_of(&lent), deaths(&lent).join("; ").as_str()),
        ("c", "maxlen full 1")
    );
    let overflow = ("x-overflow", text("reject-publish"));
    scene.bind("dlx", "dead", "shut");
    scene.queue("shut", [dlx(), ("x-max-length", int(0)), overflow]);
    assert!(scene.publish("", "shut", "d").rejected);
    assert_eq!(scene.drain("dead"), [""; 0]);
}

#[test]
fn a_dead_letter_routing_key_replaces_the_keys_of_the_message() {
    let mut scene = scene_with_dlx();
    scene.queue("other", []);
    scene.bind("dlx", "other", "other");
    let dlx = ("x-dead-letter-exchange", text("dlx"));
    let key = ("x-dead-letter-routing-key", text("other"));
    scene.queue("q", [dlx, key, ("x-message-ttl", int(0))]);
    let copies = AMQPValue::FieldArray(vec![text("elsewhere")].into());
    let headers = table([("CC", copies)]);
    let properties = BasicProperties::default().with_headers(headers);
    scene.publish_with("", "q", "m", properties);
    assert_eq!(scene.drain("dead"), [""; 0]);
    let lent = scene.take("other").expect("its key leads here");
    assert_eq!(lent.message.routing_key.as_str(), "other");
    let headers = lent.message.properties.headers().clone();
    assert!(!headers.expect("it has").contains_key("CC"));
}

#[test]
fn without_a_living_dead_letter_exchange_the_message_is_dropped() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-dead-letter-exchange", text("gone"))]);
    scene.subscribe(1, "q");
    scene.publish("", "q", "m");
    scene.settle("m", Settlement::Discard);
    assert_eq!(scene.host.held_bytes(), 0);
}

#[test]
fn dying_again_in_the_same_way_is_counted() {
    let mut scene = Scene::new();
    let dlx = || ("x-dead-letter-exchange", text(""));
    let key = |key: &str| ("x-dead-letter-routing-key", text(key));
    scene.queue("work", [dlx(), key("retry")]);
    scene.queue("retry", [dlx(), key("work"), ("x-message-ttl", int(100))]);
    scene.subscribe(1, "work");
    scene.publish("", "work", "m");
    for _ in 0..3 {
        scene.settle("m", Settlement::Discard);
        scene.pass(millis(100));
    }
    assert_eq!(scene.trace(), ["1<-m", "1<-m", "1<-m", "1<-m"]);
    let lent = scene.outlet.lent.last().expect("it came back");
    assert_eq!(deaths(lent), ["expired retry 3", "rejected work 3"]);
}

/// Nobody rejects, so nothing would ever stop it: RabbitMQ drops the message where it would enter
/// a queue for the second time.
#[test]
fn a_cycle_without_a_rejection_ends() {
    let mut scene = Scene::new();
    let dlx = || ("x-dead-letter-exchange", text(""));
    let key = |key: &str| ("x-dead-letter-routing-key", text(key));
    scene.queue("a", [dlx(), key("b"), ("x-message-ttl", int(100))]);
    scene.queue("b", [dlx(), key("a"), ("x-message-ttl", int(100))]);
    scene.publish("", "a", "m");
    scene.pass(millis(100));
    assert_eq!(scene.host.queue_depth("b"), Some((1, 0)));
    scene.pass(millis(100));
    assert_eq!(scene.host.queue_depth("a"), Some((0, 0)));
    assert_eq!(scene.host.held_bytes(), 0);
    scene.queue("self", [dlx(), ("x-max-length", int(0))]);
    scene.publish("", "self", "m");
    assert_eq!(scene.host.next_deadline(), None);
}

/// Forged headers hide a cycle of queues that keep nothing: the message would go round for ever
/// within one call.
#[test]
fn a_forged_history_does_not_keep_a_message_going_for_ever() {
    let mut scene = Scene::new();
    let dlx = || ("x-dead-letter-exchange", text(""));
    let key = |key: &str| ("x-dead-letter-routing-key", text(key));
    for (queue, next) in [("a", "b"), ("b", "a")] {
        scene.queue(queue, [dlx(), key(next), ("x-max-length", int(0))]);
    }
    let forged = table([("queue", text("x")), ("reason", text("rejected"))]);
    let forged = AMQPValue::FieldArray(vec![AMQPValue::FieldTable(forged), int(1)].into());
    let properties = BasicProperties::default().with_headers(table([("x-death", forged)]));
    scene.publish_with("", "a", "m", properties);
    assert_eq!(scene.host.next_deadline(), None);
    assert_eq!(scene.host.held_bytes(), 0);
}

#[test]
fn letters_that_make_room_for_another_go_in_order() {
    let mut scene = Scene::new();
    let dlx = || ("x-dead-letter-exchange", text(""));
    let key = |key: &str| ("x-dead-letter-routing-key", text(key));
    scene.queue("first", [dlx(), key("second"), ("x-max-length", int(0))]);
    let bytes = ("x-max-length-bytes", int(4));
    scene.queue("second", [dlx(), key("third"), bytes]);
    scene.queue("third", []);
    for body in ["1", "2", "3"] {
        scene.publish("", "second", body);
    }
    scene.publish("", "first", "4444");
    assert_eq!(scene.drain("third"), ["1", "2", "3"]);
    assert_eq!(scene.drain("second"), ["4444"]);
}

/// What is too much for once is done in the next calls, and asks for them.
#[test]
fn many_dead_letters_are_sent_on_in_portions_and_in_order() {
    let mut scene = scene_with_dlx();
    let ttl = ("x-message-ttl", int(100));
    scene.queue("q", [("x-dead-letter-exchange", text("dlx")), ttl]);
    for number in 0..25_000 {
        scene.publish("", "q", &number.to_string());
    }
    scene.now += millis(100);
    assert!(scene.take("q").is_none());
    let (first, _) = scene.host.queue_depth("dead").expect("it exists");
    assert!((1..1_000).contains(&first), "{first}");
    while let Some(due) = scene.host.next_deadline() {
        assert!(due <= scene.now);
        scene.pass(millis(0));
    }
    assert_eq!(scene.host.queue_depth("dead"), Some((25_000, 0)));
    let expected: Vec<String> = (0..25_000).map(|number| number.to_string()).collect();
    assert_eq!(scene.drain("dead"), expected);
}

#[test]
fn what_a_look_at_its_queue_found_expired_is_sent_on_at_once() {
    let mut scene = scene_with_dlx();
    let ttl = ("x-message-ttl", int(100));
    scene.queue("q", [("x-dead-letter-exchange", text("dlx")), ttl]);
    scene.publish("", "q", "m");
    scene.now += millis(100);
    let info = scene.host.check_queue(me(), "q", scene.now);
    assert_eq!(info.map(|info| info.messages), Ok(0));
    let due = scene.host.next_deadline();
    assert!(due.is_some_and(|due| due <= scene.now));
    scene.pass(millis(0));
    assert_eq!(scene.drain("dead"), ["m"]);
}
