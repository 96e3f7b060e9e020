//! What time does.

use super::*;

#[test]
fn messages_expire_when_their_time_is_over() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-message-ttl", int(100))]);
    scene.publish("", "q", "a");
    scene.pass(millis(60));
    scene.publish("", "q", "b");
    assert_eq!(scene.host.next_deadline(), Some(scene.now + millis(40)));
    scene.pass(millis(40));
    assert_eq!(scene.host.queue_depth("q"), Some((1, 0)));
    assert_eq!(scene.host.next_deadline(), Some(scene.now + millis(60)));
    scene.pass(millis(60));
    assert_eq!(scene.host.queue_depth("q"), Some((0, 0)));
    assert_eq!(scene.host.next_deadline(), None);
    assert_eq!(scene.host.held_bytes(), 0);
}

#[test]
fn the_shorter_of_two_times_to_live_counts() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-message-ttl", int(100))]);
    let short = BasicProperties::default().with_expiration("50".into());
    scene.publish_with("", "q", "a", short);
    scene.pass(millis(50));
    assert_eq!(scene.host.queue_depth("q"), Some((0, 0)));
    let long = BasicProperties::default().with_expiration("5000".into());
    scene.publish_with("", "q", "b", long);
    scene.pass(millis(100));
    assert_eq!(scene.host.queue_depth("q"), Some((0, 0)));
}

#[test]
fn behind_a_lasting_message_an_expired_one_waits_and_is_never_delivered() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.publish("", "q", "lasting");
    let short = BasicProperties::default().with_expiration("10".into());
    scene.publish_with("", "q", "expired", short);
    scene.pass(millis(10));
    assert_eq!(scene.host.queue_depth("q"), Some((2, 0)));
    let (host, outlet) = (&mut scene.host, &mut scene.outlet);
    let got = host.get(me(), "q", true, scene.now, outlet);
    let got = got.expect("it exists").expect("it has messages");
    assert_eq!((body_of(&got.lent), got.remaining), ("lasting", 0));
    scene.publish("", "q", "lasting");
    let short = BasicProperties::default().with_expiration("10".into());
    scene.publish_with("", "q", "expired", short);
    scene.now += millis(10);
    scene.subscribe(1, "q");
    assert_eq!(scene.trace(), ["1<-lasting"]);
    assert_eq!(scene.host.queue_depth("q"), Some((0, 1)));
}

#[test]
fn a_message_that_comes_to_the_head_expires_in_its_time() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.publish("", "q", "first");
    let short = BasicProperties::default().with_expiration("10".into());
    scene.publish_with("", "q", "second", short);
    assert_eq!(scene.host.next_deadline(), None);
    scene.take("q");
    assert_eq!(scene.host.next_deadline(), Some(scene.now + millis(10)));
}

#[test]
fn with_no_time_to_live_a_message_is_for_consumers_who_wait() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-message-ttl", int(0))]);
    scene.publish("", "q", "a");
    assert_eq!(scene.host.queue_depth("q"), Some((0, 0)));
    scene.subscribe(1, "q");
    scene.publish("", "q", "b");
    assert_eq!(scene.trace(), ["1<-b"]);
    scene.settle("b", Settlement::Requeue);
    assert_eq!(scene.trace(), [""; 0]);
}

#[test]
fn what_comes_back_too_late_expires() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-message-ttl", int(100))]);
    scene.outlet.room.insert(1, 1);
    scene.subscribe(1, "q");
    scene.publish("", "q", "a");
    scene.pass(millis(99));
    scene.settle("a", Settlement::Requeue);
    assert_eq!(scene.host.queue_depth("q"), Some((1, 0)));
    scene.pass(millis(1));
    assert_eq!(scene.host.queue_depth("q"), Some((0, 0)));
}

#[test]
fn a_queue_expires_when_nobody_used_it_for_its_time() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-expires", int(100))]);
    let touch: [fn(&mut Scene); 3] = [
        |scene| scene.queue("q", [("x-expires", int(100))]),
        |scene| drop(scene.host.check_queue(me(), "q", scene.now)),
        |scene| drop(scene.take("q")),
    ];
    for touch in touch {
        scene.pass(millis(99));
        touch(&mut scene);
    }
    scene.pass(millis(99));
    scene.subscribe(1, "q");
    scene.pass(millis(1_000));
    scene.unsubscribe(1);
    scene.publish("", "q", "publishing is no use");
    scene.pass(millis(99));
    assert_eq!(scene.host.queue_depth("q"), Some((1, 0)));
    assert_eq!(scene.host.next_deadline(), Some(scene.now + millis(1)));
    scene.pass(millis(1));
    assert_eq!(scene.host.queue_depth("q"), None);
    assert_eq!(scene.host.next_deadline(), None);
}

#[test]
fn a_deleted_queue_leaves_no_deadline() {
    let mut scene = Scene::new();
    scene.queue("q", [("x-message-ttl", int(100)), ("x-expires", int(500))]);
    scene.publish("", "q", "a");
    let deleted = scene
        .host
        .delete_queue(me(), "q", false, false, &mut scene.outlet);
    assert_eq!(deleted, Ok(1));
    assert_eq!(scene.host.next_deadline(), None);
    scene.pass(millis(500));
}
