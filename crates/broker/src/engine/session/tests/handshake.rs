//! From the protocol header to an open connection, and what is refused on the way.

use super::*;

#[test]
fn another_protocol_is_answered_with_the_header_of_this_one() {
    let mut scene = Scene::new();
    let id = scene.connect();
    let version = ProtocolVersion {
        major: 1,
        minor: 0,
        revision: 0,
    };
    scene.give(id, Frame::ProtocolHeader(version));
    assert_eq!(scene.hear(id), ["header 0.9.1", "shut"]);
    assert!(!scene.engine.wants_more(id));
}

#[test]
fn both_mechanisms_let_a_known_user_in() {
    let mut scene = Scene::new();
    scene.client();
    let id = scene.started();
    let response = b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest";
    let heard = scene.say(id, 0, start_ok("AMQPLAIN", response));
    assert_eq!(heard, ["0 tune 2047 131072 60"]);
}

#[test]
fn a_wrong_password_is_refused_in_words_if_the_client_can_hear_them() {
    for response in [
        &b"\0guest\0wrong"[..],
        b"\0nobody\0guest",
        b"\0guest\0guest1",
        b"\0guest\0",
    ] {
        let mut scene = Scene::new();
        let id = scene.started();
        let close = "0 close 403 ACCESS_REFUSED - Login was refused using authentication \
                     mechanism PLAIN. For details see the broker logfile. (0, 0)";
        assert_eq!(
            scene.say(id, 0, start_ok("PLAIN", response)),
            [close, "shut"]
        );
        let id = scene.started();
        let mute = start_ok_of(FieldTable::default(), "PLAIN", response);
        assert_eq!(scene.say(id, 0, mute), ["shut"]);
    }
}

#[test]
fn a_response_that_follows_no_form_ends_the_connection_without_a_word() {
    for (mechanism, response) in [
        ("FOO", &b""[..]),
        ("PLAIN", b"x"),
        ("PLAIN", b""),
        ("PLAIN", b"\0a"),
        ("AMQPLAIN", b"x"),
        ("AMQPLAIN", b"\x05LOGINS\xff\xff\xff\xffguest"),
        ("AMQPLAIN", b"\x05LOGINF\0\0\0\0"),
    ] {
        let mut scene = Scene::new();
        let id = scene.started();
        assert_eq!(scene.say(id, 0, start_ok(mechanism, response)), ["shut"]);
    }
}

#[test]
fn a_client_may_lower_what_tune_offers_and_not_raise_it() {
    for (answer, text) in [
        (
            tune_ok(0, 131_072, 60),
            "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
        ),
        (
            tune_ok(2_048, 131_072, 60),
            "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)",
        ),
        (
            tune_ok(1, 0, 60),
            "negotiated frame_max = 0 is higher than the maximum allowed value (131072)",
        ),
        (
            tune_ok(1, 4_095, 60),
            "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)",
        ),
        (
            tune_ok(1, 131_073, 60),
            "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)",
        ),
    ] {
        let mut scene = Scene::new();
        let id = scene.logged_in();
        let heard = scene.say(id, 0, answer);
        assert_eq!(
            heard,
            [format!("0 close 530 NOT_ALLOWED - {text} (10, 30)")]
        );
    }
    let mut scene = Scene::new();
    let id = scene.logged_in();
    assert_eq!(scene.engine.frame_max(id), 4_096);
    assert!(scene.say(id, 0, tune_ok(1, 8_192, 0)).is_empty());
    assert_eq!(scene.engine.frame_max(id), 8_192);
}

#[test]
fn a_virtual_host_that_is_not_there_or_not_the_users_is_refused() {
    let mut scene = Scene::new();
    let id = scene.logged_in();
    scene.say(id, 0, tune_ok(1, 8_192, 0));
    let close = "0 close 530 NOT_ALLOWED - vhost nope not found (10, 40)";
    assert_eq!(scene.say(id, 0, open("nope")), [close]);
    assert_eq!(scene.say(id, 0, close_ok()), ["shut"]);

    let id = scene.started();
    scene.say(id, 0, start_ok("PLAIN", b"\0app\0secret"));
    scene.say(id, 0, tune_ok(1, 8_192, 0));
    let close = "0 close 530 NOT_ALLOWED - access to vhost '/' refused for user 'app' (10, 40)";
    assert_eq!(scene.say(id, 0, open("/")), [close]);

    let id = scene.started();
    scene.say(id, 0, start_ok("PLAIN", b"\0app\0secret"));
    scene.say(id, 0, tune_ok(1, 8_192, 0));
    assert_eq!(scene.say(id, 0, open("other")), ["0 open-ok"]);
    assert!(scene.engine.is_open(id));
}

#[test]
fn whoever_does_not_finish_the_handshake_in_time_is_cut() {
    let mut scene = Scene::new();
    let silent = scene.connect();
    let slow = scene.logged_in();
    let quick = scene.client();
    assert_eq!(
        scene.engine.next_deadline(),
        Some(scene.now + Duration::from_secs(10))
    );
    scene.pass(Duration::from_secs(10));
    assert_eq!(scene.hear(silent), ["shut"]);
    assert_eq!(scene.hear(slow), ["shut"]);
    assert!(scene.hear(quick).is_empty());
}

#[test]
fn a_method_out_of_turn_ends_the_handshake() {
    let mut scene = Scene::new();
    let id = scene.started();
    assert_eq!(scene.say(id, 0, open("/")), ["shut"]);
    let id = scene.started();
    assert_eq!(scene.say(id, 1, channel_open()), ["shut"]);
}

#[test]
fn a_new_secret_is_taken_note_of() {
    let mut scene = Scene::new();
    let id = scene.client();
    let update = connection::AMQPMethod::UpdateSecret(connection::UpdateSecret {
        new_secret: "s".into(),
        reason: "r".into(),
    });
    let heard = scene.say(id, 0, AMQPClass::Connection(update));
    assert_eq!(heard, ["0 update-secret-ok"]);
}
