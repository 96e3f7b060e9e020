//! Exchanges and bindings come and go, and are refused in RabbitMQ's words.

use super::*;

fn declare(scene: &mut Scene, spec: ExchangeSpec<'_>) -> Result<(), Refusal> {
    scene.host.declare_exchange(spec)
}

#[test]
fn every_virtual_host_has_the_predeclared_exchanges() {
    let scene = Scene::new();
    for name in ["direct", "fanout", "topic", "headers", "match"] {
        assert_eq!(scene.host.check_exchange(&format!("amq.{name}")), Ok(()));
    }
    assert_eq!(
        refused(scene.host.check_exchange("amq.other")),
        (404, "no exchange 'amq.other' in vhost '/'".to_owned())
    );
}

#[test]
fn an_exchange_that_differs_is_refused_by_the_first_difference() {
    let mut scene = Scene::new();
    scene.exchange("x", "direct");
    let none = FieldTable::default();
    let spec = exchange_spec("x", "direct", &none);
    assert_eq!(declare(&mut scene, spec), Ok(()));
    let alternate = table([("alternate-exchange", text("y"))]);
    for (spec, difference) in [
        (
            exchange_spec("x", "topic", &none),
            "'type' for exchange 'x' in vhost '/': received 'topic' but current is 'direct'",
        ),
        (
            ExchangeSpec {
                durable: true,
                ..spec
            },
            "'durable' for exchange 'x' in vhost '/': received 'true' but current is 'false'",
        ),
        (
            ExchangeSpec {
                auto_delete: true,
                ..spec
            },
            "'auto_delete' for exchange 'x' in vhost '/': received 'true' but current is 'false'",
        ),
        (
            ExchangeSpec {
                internal: true,
                ..spec
            },
            "'internal' for exchange 'x' in vhost '/': received 'true' but current is 'false'",
        ),
        (
            exchange_spec("x", "direct", &alternate),
            "'alternate-exchange' for exchange 'x' in vhost '/': received the value 'y' of type \
             'longstr' but current is none",
        ),
    ] {
        let expected = (406, format!("inequivalent arg {difference}"));
        assert_eq!(refused(declare(&mut scene, spec)), expected);
    }
}

#[test]
fn wrong_declarations_are_refused() {
    let mut scene = Scene::new();
    let none = FieldTable::default();
    let wrong = table([("alternate-exchange", int(5))]);
    for (spec, code, words) in [
        (
            exchange_spec("x", "nonsense", &none),
            503,
            "unknown exchange type 'nonsense'",
        ),
        (
            exchange_spec("x", "", &none),
            503,
            "invalid exchange type ''",
        ),
        (
            exchange_spec("", "direct", &none),
            403,
            "operation not permitted on the default exchange",
        ),
        (
            exchange_spec("amq.mine", "direct", &none),
            403,
            "exchange name 'amq.mine' contains reserved prefix 'amq.*'",
        ),
        (
            exchange_spec("x", "direct", &wrong),
            406,
            "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'",
        ),
    ] {
        let result = declare(&mut scene, spec);
        assert_eq!(refused(result), (code, words.to_owned()));
    }
    let spec = exchange_spec("a\r\nb", "direct", &none);
    assert_eq!(declare(&mut scene, spec), Ok(()));
    assert_eq!(scene.host.check_exchange("ab"), Ok(()));
}

#[test]
fn deletion_spares_what_is_predeclared_or_used_and_does_not_mind_absence() {
    let mut scene = Scene::new();
    scene.exchange("x", "fanout");
    scene.queue("q", []);
    scene.bind("x", "q", "");
    assert_eq!(
        refused(scene.host.delete_exchange("amq.topic", false)),
        (
            403,
            "deletion of system exchange 'amq.topic' in vhost '/' not allowed".to_owned()
        )
    );
    assert_eq!(
        refused(scene.host.delete_exchange("x", true)),
        (406, "exchange 'x' in vhost '/' in use".to_owned())
    );
    assert_eq!(scene.host.delete_exchange("x", false), Ok(()));
    assert_eq!(scene.host.delete_exchange("x", true), Ok(()));
    scene.exchange("x", "fanout");
    assert_eq!(scene.publish("x", "", "m").queues, 0);
}

#[test]
fn an_internal_exchange_takes_messages_from_exchanges_only() {
    let mut scene = Scene::new();
    let none = FieldTable::default();
    let spec = ExchangeSpec {
        internal: true,
        ..exchange_spec("inner", "fanout", &none)
    };
    assert_eq!(declare(&mut scene, spec), Ok(()));
    scene.queue("q", []);
    scene.bind("inner", "q", "");
    scene.bind_exchanges("amq.fanout", "inner", "");
    let direct = scene.try_publish("inner", "", "m", BasicProperties::default());
    assert_eq!(
        refused(direct),
        (
            403,
            "cannot publish to internal exchange 'inner' in vhost '/'".to_owned()
        )
    );
    assert_eq!(scene.publish("amq.fanout", "", "m").queues, 1);
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding_and_takes_others_along() {
    let mut scene = Scene::new();
    let none = FieldTable::default();
    for name in ["first", "second"] {
        let spec = ExchangeSpec {
            auto_delete: true,
            ..exchange_spec(name, "fanout", &none)
        };
        assert_eq!(declare(&mut scene, spec), Ok(()));
    }
    scene.queue("q", []);
    scene.bind_exchanges("first", "second", "");
    scene.bind("second", "q", "");
    scene.bind("second", "q", "other");
    let unbind = |scene: &mut Scene, key| {
        let spec = binding_spec("second", "q", key, &none);
        scene.host.unbind(me(), spec)
    };
    assert_eq!(unbind(&mut scene, "absent"), Ok(()));
    assert_eq!(unbind(&mut scene, "other"), Ok(()));
    assert_eq!(scene.publish("first", "", "m").queues, 1);
    let deleted = scene
        .host
        .delete_queue(me(), "q", false, false, &mut scene.outlet);
    assert_eq!(deleted, Ok(1));
    for name in ["first", "second"] {
        assert_eq!(refused(scene.host.check_exchange(name)).0, 404);
    }
}

#[test]
fn bindings_differ_by_their_arguments_and_are_made_once() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    let arguments = table([("x", int(1))]);
    scene.bind("amq.direct", "q", "k");
    scene.bind("amq.direct", "q", "k");
    let spec = binding_spec("amq.direct", "q", "k", &arguments);
    assert_eq!(scene.host.bind(me(), spec), Ok(()));
    let none = FieldTable::default();
    let plain = binding_spec("amq.direct", "q", "k", &none);
    let wide = table([("x", AMQPValue::LongLongInt(1))]);
    let other = binding_spec("amq.direct", "q", "k", &wide);
    assert_eq!(scene.host.unbind(me(), plain), Ok(()));
    assert_eq!(scene.host.unbind(me(), other), Ok(()));
    assert_eq!(scene.publish("amq.direct", "k", "m").queues, 1);
    assert_eq!(scene.host.unbind(me(), spec), Ok(()));
    assert_eq!(scene.publish("amq.direct", "k", "m").queues, 0);
}

#[test]
fn bindings_need_both_ends_and_valid_arguments() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    let none = FieldTable::default();
    let wrong_value = table([("x-match", text("some"))]);
    let wrong_type = table([("x-match", int(1))]);
    for (spec, code, words) in [
        (
            binding_spec("x", "r", "", &none),
            404,
            "no exchange 'x' in vhost '/'",
        ),
        (
            binding_spec("amq.direct", "r", "", &none),
            404,
            "no queue 'r' in vhost '/'",
        ),
        (
            binding_spec("", "q", "", &none),
            403,
            "operation not permitted on the default exchange",
        ),
        (
            binding_spec("amq.headers", "q", "", &wrong_value),
            406,
            "Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x",
        ),
        (
            binding_spec("amq.headers", "q", "", &wrong_type),
            406,
            "Invalid x-match field type signedint (value 1); expected longstr",
        ),
    ] {
        let result = scene.host.bind(me(), spec);
        assert_eq!(refused(result), (code, words.to_owned()));
    }
    let absent = binding_spec("x", "r", "", &none);
    assert_eq!(scene.host.unbind(me(), absent), Ok(()));
    let absent = exchange_binding_spec("x", "r", "", &none);
    assert_eq!(scene.host.unbind(me(), absent), Ok(()));
    let to_absent = exchange_binding_spec("amq.direct", "x", "", &none);
    assert_eq!(refused(scene.host.bind(me(), to_absent)).0, 404);
    let to_default = exchange_binding_spec("amq.direct", "", "", &none);
    assert_eq!(refused(scene.host.bind(me(), to_default)).0, 403);
    assert_eq!(refused(scene.host.unbind(me(), to_default)).0, 403);
}

#[test]
fn wrong_messages_are_refused() {
    let mut scene = Scene::new();
    let plain = BasicProperties::default;
    let expiring = |text: &str| plain().with_expiration(text.into());
    for (exchange, properties, code, words) in [
        ("x", plain(), 404, "no exchange 'x' in vhost '/'"),
        (
            "",
            expiring("abc"),
            406,
            "invalid expiration 'abc': no_integer",
        ),
        ("", expiring(""), 406, "invalid expiration '': no_integer"),
        (
            "",
            expiring("-1"),
            406,
            "invalid expiration '-1': {value_negative,-1}",
        ),
        (
            "",
            expiring("5 "),
            406,
            "invalid expiration '5 ': {leftover_string,\" \"}",
        ),
        (
            "",
            expiring("99999999999999999999"),
            406,
            "invalid expiration '99999999999999999999': {value_too_large,\n\
             \x20                                           99999999999999999999}",
        ),
        (
            "",
            plain().with_delivery_mode(3),
            406,
            "invalid message: {delivery_mode_unknown,3}",
        ),
    ] {
        let result = scene.try_publish(exchange, "k", "m", properties);
        assert_eq!(refused(result), (code, words.to_owned()));
    }
    assert_eq!(scene.publish_with("", "k", "m", expiring("+5")).queues, 0);
}
