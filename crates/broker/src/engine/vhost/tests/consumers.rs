//! Who gets what, in which order.

use super::*;

#[test]
fn consumers_take_turns() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.subscribe(1, "q");
    scene.subscribe(2, "q");
    scene.subscribe(3, "q");
    for body in ["a", "b", "c", "d"] {
        scene.publish("", "q", body);
    }
    assert_eq!(scene.trace(), ["1<-a", "2<-b", "3<-c", "1<-d"]);
}

#[test]
fn a_consumer_without_room_is_passed_over_and_not_asked_again_until_it_resumes() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.outlet.room.insert(1, 1);
    scene.subscribe(1, "q");
    for body in ["a", "b", "c", "d"] {
        scene.publish("", "q", body);
    }
    assert_eq!(scene.trace(), ["1<-a"]);
    assert_eq!(scene.outlet.asked, 2);
    scene.outlet.room.insert(1, 2);
    scene.resume(1);
    assert_eq!(scene.trace(), ["1<-b", "1<-c"]);
    assert_eq!(scene.host.queue_depth("q"), Some((1, 3)));
}

#[test]
fn nothing_is_delivered_before_the_consumer_is_resumed() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.publish("", "q", "a");
    let spec = ConsumerSpec {
        key: consumer(1),
        queue: "q",
        no_ack: true,
        exclusive: false,
        arguments: &FieldTable::default(),
    };
    scene.host.subscribe(spec).expect("the queue exists");
    assert_eq!(scene.trace(), [""; 0]);
    scene.resume(1);
    assert_eq!(scene.trace(), ["1<-a"]);
    assert_eq!(scene.host.queue_depth("q"), Some((0, 0)));
}

#[test]
fn consumers_of_higher_priority_come_first_while_they_have_room() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.subscribe(1, "q");
    let high = table([("x-priority", int(5))]);
    scene.outlet.room.insert(2, 2);
    scene
        .subscribe_with(2, "q", false, &high)
        .expect("the priority is an integer");
    for body in ["a", "b", "c"] {
        scene.publish("", "q", body);
    }
    assert_eq!(scene.trace(), ["2<-a", "2<-b", "1<-c"]);
    let wrong = table([("x-priority", text("high"))]);
    assert_eq!(
        refused(scene.subscribe_with(3, "q", false, &wrong)),
        (
            406,
            "invalid arg 'x-priority' for queue 'q' in vhost '/': \
             \"expected integer, got longstr\""
                .to_owned()
        )
    );
}

#[test]
fn an_exclusive_consumer_is_alone() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    let none = FieldTable::default();
    scene
        .subscribe_with(1, "q", true, &none)
        .expect("nobody else consumes");
    let text = "queue 'q' in vhost '/' in exclusive use".to_owned();
    let second = scene.subscribe_with(2, "q", false, &none);
    assert_eq!(refused(second), (403, text.clone()));
    scene.unsubscribe(1);
    scene.subscribe(2, "q");
    let third = scene.subscribe_with(3, "q", true, &none);
    assert_eq!(refused(third), (403, text));
}

#[test]
fn a_single_active_consumer_is_followed_by_the_next_when_it_goes() {
    let mut scene = Scene::new();
    scene.queue(
        "q",
        [("x-single-active-consumer", AMQPValue::Boolean(true))],
    );
    scene.outlet.room.insert(1, 2);
    for number in 1..=3 {
        scene.subscribe(number, "q");
    }
    for body in ["a", "b", "c", "d"] {
        scene.publish("", "q", body);
    }
    assert_eq!(scene.trace(), ["1<-a", "1<-b"]);
    scene.unsubscribe(1);
    assert_eq!(scene.trace(), ["2<-c", "2<-d"]);
    scene.settle("a", Settlement::Requeue);
    assert_eq!(scene.trace(), ["2<-a again"]);
    let exclusive = scene.subscribe_with(4, "q", true, &FieldTable::default());
    assert_eq!(refused(exclusive).0, 403);
}

#[test]
fn what_goes_back_takes_its_old_place() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.outlet.room.insert(1, 3);
    scene.subscribe(1, "q");
    for body in ["a", "b", "c", "d"] {
        scene.publish("", "q", body);
    }
    scene.trace();
    scene.settle("c", Settlement::Requeue);
    scene.settle("a", Settlement::Requeue);
    assert_eq!(scene.host.queue_depth("q"), Some((3, 1)));
    scene.subscribe(2, "q");
    assert_eq!(scene.trace(), ["2<-a again", "2<-c again", "2<-d"]);
}

#[test]
fn the_consumers_of_a_deleted_queue_are_cancelled_and_its_loans_forgotten() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.subscribe(1, "q");
    scene.publish("", "q", "a");
    let deleted = scene
        .host
        .delete_queue(me(), "q", false, false, &mut scene.outlet);
    assert_eq!(deleted, Ok(0));
    assert_eq!(scene.trace(), ["1<-a", "1 cancelled"]);
    assert_eq!(scene.host.held_bytes(), 0);
    scene.queue("q", []);
    scene.settle("a", Settlement::Requeue);
    scene.resume(1);
    assert_eq!(scene.host.queue_depth("q"), Some((0, 0)));
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let mut scene = Scene::new();
    let spec = QueueSpec {
        name: "q",
        durable: false,
        exclusive: false,
        auto_delete: true,
        arguments: &FieldTable::default(),
    };
    let declared = scene.host.declare_queue(me(), spec, scene.now);
    assert_eq!(declared.map(|info| info.consumers), Ok(0));
    scene.subscribe(1, "q");
    scene.subscribe(2, "q");
    scene.unsubscribe(1);
    assert_eq!(scene.host.queue_depth("q"), Some((0, 0)));
    scene.unsubscribe(2);
    assert_eq!(scene.host.queue_depth("q"), None);
}

/// Cost per message is flat in the number of idle consumers: one that waits for its client is not
/// asked when a message comes.
#[test]
fn idle_consumers_are_not_asked() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    for number in 1..=100 {
        scene.outlet.room.insert(number, 0);
        scene.subscribe(number, "q");
    }
    scene.publish("", "q", "a");
    assert_eq!(scene.outlet.asked, 100);
    scene.outlet.asked = 0;
    scene.publish("", "q", "b");
    assert_eq!(scene.outlet.asked, 0);
}
