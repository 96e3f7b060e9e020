//! Where messages go.

use proptest::{collection::vec, prelude::*};

use super::*;

#[test]
fn the_default_exchange_hands_a_message_to_the_queue_its_key_names() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    assert_eq!(scene.publish("", "q", "a").queues, 1);
    assert_eq!(scene.publish("", "other", "b").queues, 0);
    assert_eq!(scene.drain("q"), ["a"]);
}

#[test]
fn a_message_reaches_a_queue_once_however_many_bindings_lead_there() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.bind("amq.topic", "q", "#");
    scene.bind("amq.topic", "q", "a.*");
    scene.bind("amq.topic", "q", "a.b");
    assert_eq!(scene.publish("amq.topic", "a.b", "m").queues, 1);
    assert_eq!(scene.drain("q"), ["m"]);
}

#[test]
fn a_direct_exchange_compares_keys_and_a_fanout_does_not() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.bind("amq.direct", "q", "a");
    scene.bind("amq.fanout", "q", "a");
    assert_eq!(scene.publish("amq.direct", "b", "").queues, 0);
    assert_eq!(scene.publish("amq.direct", "a", "").queues, 1);
    assert_eq!(scene.publish("amq.fanout", "b", "").queues, 1);
}

#[test]
fn exchanges_bound_in_a_circle_pass_a_message_on_once() {
    let mut scene = Scene::new();
    scene.exchange("x", "fanout");
    scene.exchange("y", "direct");
    scene.bind_exchanges("x", "y", "");
    scene.bind_exchanges("y", "x", "k");
    scene.bind_exchanges("y", "y", "k");
    scene.queue("q", []);
    scene.bind("y", "q", "k");
    assert_eq!(scene.publish("x", "k", "m").queues, 1);
    assert_eq!(scene.drain("q"), ["m"]);
}

#[test]
fn the_alternate_exchange_gets_what_no_binding_matches() {
    let mut scene = Scene::new();
    scene.exchange("rest", "fanout");
    scene.queue("q", []);
    scene.queue("rest", []);
    scene.bind("rest", "rest", "");
    let arguments = table([("alternate-exchange", text("rest"))]);
    let spec = exchange_spec("x", "direct", &arguments);
    scene.host.declare_exchange(spec).expect("it is new");
    scene.bind("x", "q", "k");
    scene.publish("x", "k", "matched");
    scene.publish("x", "other", "left over");
    assert_eq!(scene.drain("q"), ["matched"]);
    assert_eq!(scene.drain("rest"), ["left over"]);
}

#[test]
fn copies_go_to_further_keys_and_blind_ones_are_not_told() {
    let mut scene = Scene::new();
    for queue in ["to", "cc", "bcc"] {
        scene.queue(queue, []);
    }
    let keys = |key: &str| AMQPValue::FieldArray(vec![text(key)].into());
    let headers = table([("CC", keys("cc")), ("BCC", keys("bcc"))]);
    let properties = BasicProperties::default().with_headers(headers);
    assert_eq!(scene.publish_with("", "to", "m", properties).queues, 3);
    for queue in ["to", "cc", "bcc"] {
        let lent = scene.take(queue).expect("it was copied here");
        let headers = lent.message.properties.headers().clone().expect("it has");
        assert!(headers.contains_key("CC") && !headers.contains_key("BCC"));
        assert_eq!(lent.message.routing_key.as_str(), "to");
    }
    let wrong = BasicProperties::default().with_headers(table([("CC", text("cc"))]));
    assert_eq!(
        refused(scene.try_publish("", "to", "m", wrong)),
        (
            406,
            "invalid message: {unacceptable_type_in_header,\"CC\",longstr}".to_owned()
        )
    );
}

/// The bindings of a headers exchange, and which of some messages each gets. `-` is a message
/// without headers.
#[test]
fn a_headers_exchange_matches_all_or_any_with_or_without_x() {
    let mut scene = Scene::new();
    let one_and_two = |kind: &str| table([("x-match", text(kind)), ("a", int(1)), ("b", int(2))]);
    let with_x = |kind: &str| table([("x-match", text(kind)), ("a", int(1)), ("x-b", int(2))]);
    let bindings = [
        ("nothing", table([])),
        ("nothing-any", table([("x-match", text("any"))])),
        ("all", one_and_two("all")),
        ("any", one_and_two("any")),
        ("x-ignored", with_x("all")),
        ("all-with-x", with_x("all-with-x")),
        ("any-with-x", with_x("any-with-x")),
        ("present", table([("a", AMQPValue::Void)])),
    ];
    for (queue, arguments) in &bindings {
        scene.queue(queue, []);
        let spec = binding_spec("amq.headers", queue, "", arguments);
        scene.host.bind(me(), spec).expect("it is valid");
    }
    for (headers, expected) in [
        (table([]), "nothing"),
        (
            table([("a", AMQPValue::ShortInt(1)), ("b", AMQPValue::Double(2.0))]),
            "nothing all any x-ignored any-with-x present",
        ),
        (
            table([("a", int(1)), ("x-b", int(2))]),
            "nothing any x-ignored all-with-x any-with-x present",
        ),
        (table([("b", int(2))]), "nothing any"),
        (table([("x-b", int(2))]), "nothing any-with-x"),
        (table([("a", text("1"))]), "nothing present"),
    ] {
        let properties = BasicProperties::default().with_headers(headers.clone());
        scene.publish_with("amq.headers", "", "m", properties);
        let found: Vec<&str> = bindings
            .iter()
            .map(|(queue, _)| *queue)
            .filter(|queue| !scene.drain(queue).is_empty())
            .collect();
        assert_eq!(found.join(" "), expected, "{headers:?}");
    }
}

#[test]
fn a_headers_binding_that_is_gone_matches_no_more() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    for arguments in [
        table([]),
        table([("a", int(1)), ("b", int(2))]),
        table([("x-match", text("any")), ("a", int(1)), ("b", int(2))]),
    ] {
        let spec = binding_spec("amq.match", "q", "", &arguments);
        scene.host.bind(me(), spec).expect("it is valid");
        scene.host.unbind(me(), spec).expect("it is there");
        let headers = table([("a", int(1)), ("b", int(2))]);
        let properties = BasicProperties::default().with_headers(headers);
        let routed = scene.publish_with("amq.match", "", "m", properties);
        assert_eq!(routed.queues, 0, "{arguments:?}");
    }
}

/// What a message costs must not depend on bindings that do not match: patterns full of `#` that a
/// naive search would try in every combination come to an end at once.
#[test]
fn patterns_made_to_take_for_ever_do_not() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.bind("amq.topic", "q", &["#"; 100].join("."));
    scene.bind("amq.topic", "q", &format!("{}.end", ["#.a"; 60].join(".")));
    let key = ["a"; 120].join(".");
    assert_eq!(scene.publish("amq.topic", &key, "m").queues, 1);
}

/// RabbitMQ's page on exchanges, word by word, the slow way.
fn naive(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), key_split) => {
            naive(rest, key) || key_split.is_some_and(|(_, key)| naive(pattern, key))
        }
        (Some((&"*", rest)), Some((_, key))) => naive(rest, key),
        (Some((word, rest)), Some((same, key))) => word == same && naive(rest, key),
        _ => false,
    }
}

fn words(of: &str) -> Vec<&str> {
    if of.is_empty() {
        return Vec::new();
    }
    of.split('.').collect()
}

proptest! {
    #[test]
    fn a_topic_exchange_finds_what_a_naive_matcher_finds(
        patterns in vec(vec(prop::sample::select(vec!["a", "b", "", "*", "#"]), 0..6), 1..8),
        removed in vec(any::<bool>(), 8),
        keys in vec(vec(prop::sample::select(vec!["a", "b", "c", ""]), 0..6), 1..8),
    ) {
        let mut scene = Scene::new();
        let patterns: Vec<String> = patterns.iter().map(|words| words.join(".")).collect();
        for (number, pattern) in patterns.iter().enumerate() {
            scene.queue(&number.to_string(), []);
            scene.bind("amq.topic", &number.to_string(), pattern);
        }
        for number in (0..patterns.len()).filter(|number| removed[*number]) {
            let arguments = FieldTable::default();
            let queue = number.to_string();
            let spec = binding_spec("amq.topic", &queue, &patterns[number], &arguments);
            scene.host.unbind(me(), spec).expect("it is there");
        }
        for key in keys.iter().map(|words| words.join(".")) {
            scene.publish("amq.topic", &key, "m");
            for (number, pattern) in patterns.iter().enumerate() {
                let expected = !removed[number] && naive(&words(pattern), &words(&key));
                let found = !scene.drain(&number.to_string()).is_empty();
                prop_assert_eq!(found, expected, "pattern {:?}, key {:?}", pattern, key);
            }
        }
    }
}
