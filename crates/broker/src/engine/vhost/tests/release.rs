//! What the end of a channel does to its queues.

use super::*;

/// Consumer 1 has a message of each queue, one that is got aside. Others wait for what it gives back.
fn lent_from_three() -> Scene {
    let mut scene = Scene::new();
    for queue in ["old", "young", "got"] {
        scene.queue(queue, []);
        scene.publish("", queue, queue);
    }
    scene.subscribe(1, "old");
    scene.subscribe(2, "young");
    let host = &mut scene.host;
    let got = host.get(me(), "got", false, scene.now, &mut scene.outlet);
    let got = got.expect("it exists").expect("it has a message");
    scene.outlet.lent.push(got.lent);
    for (number, queue) in [(3, "old"), (4, "young"), (5, "got")] {
        scene.subscribe(number, queue);
    }
    assert_eq!(scene.trace(), ["1<-old", "2<-young"]);
    scene
}

/// As on RabbitMQ 3.10.8.
#[test]
fn the_youngest_of_the_consumed_queues_hears_first_of_the_end_of_a_channel() {
    let mut scene = lent_from_three();
    scene.release([1, 2]);
    let heard = ["4<-young again", "3<-old again", "5<-got again"];
    assert_eq!(scene.trace(), heard);
}

#[test]
fn a_queue_whose_consumer_is_cancelled_hears_after_those_that_are_consumed() {
    let mut scene = lent_from_three();
    scene.unsubscribe(2);
    scene.release([1]);
    assert_eq!(scene.trace()[0], "3<-old again");
}

#[test]
fn what_a_channel_drops_in_one_queue_is_in_the_next_before_that_hears_of_the_end() {
    let mut scene = Scene::new();
    scene.queue("old", [("x-max-length-bytes", int(5))]);
    scene.queue(
        "young",
        [
            ("x-max-length", int(0)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("old")),
        ],
    );
    scene.outlet.room.insert(1, 1);
    scene.subscribe(1, "old");
    scene.subscribe(2, "young");
    for (queue, body) in [("old", "aaa"), ("old", "b"), ("young", "dddddd")] {
        scene.publish("", queue, body);
    }
    scene.release([1, 2]);
    // Too long to stay, it has driven out what was there when the other comes back.
    assert_eq!(scene.drain("old"), ["aaa"]);
    assert_eq!(scene.host.queue_depth("young"), Some((0, 0)));
}

#[test]
fn the_next_single_active_consumer_has_what_comes_back_before_what_waits() {
    let mut scene = Scene::new();
    scene.queue(
        "q",
        [("x-single-active-consumer", AMQPValue::Boolean(true))],
    );
    scene.outlet.room.insert(1, 1);
    scene.subscribe(1, "q");
    scene.subscribe(2, "q");
    scene.publish("", "q", "a");
    scene.publish("", "q", "b");
    assert_eq!(scene.trace(), ["1<-a"]);
    scene.release([1]);
    assert_eq!(scene.trace(), ["2<-a again", "2<-b"]);
}

#[test]
fn an_auto_delete_queue_that_a_channel_was_the_last_to_consume_takes_nothing_back() {
    let mut scene = Scene::new();
    let spec = QueueSpec {
        name: "q",
        durable: false,
        exclusive: false,
        auto_delete: true,
        arguments: &FieldTable::default(),
    };
    scene
        .host
        .declare_queue(me(), spec, scene.now)
        .expect("it can be declared");
    scene.subscribe(1, "q");
    scene.subscribe(2, "q");
    scene.publish("", "q", "a");
    scene.release([1, 2]);
    assert_eq!(scene.host.queue_depth("q"), None);
    assert_eq!(scene.host.held_bytes(), 0);
}
