//! What is too much for once is done in portions, and asks for the next: whoever holds a lock around
//! the host can let go in between.

use super::*;

/// No call does more in one go, but for a message that goes to many queues.
const MOST: u64 = 3 * 1_000 + 100;

impl Scene {
    /// What a call costs, which is a portion at most.
    fn portion<R>(&mut self, call: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.host.work();
        let result = call(self);
        let work = self.host.work() - before;
        assert!(work <= MOST, "{work}");
        result
    }

    /// Goes on until nothing is due. How many calls that took.
    fn finish(&mut self) -> usize {
        let mut calls = 0;
        while self.host.next_deadline().is_some_and(|due| due <= self.now) {
            self.portion(|scene| scene.pass(millis(0)));
            calls += 1;
            assert!(calls < 10_000, "no end");
        }
        calls
    }

    fn fill(&mut self, queue: &str, count: usize) {
        for _ in 0..count {
            self.publish("", queue, "m");
        }
    }
}

fn ttl(time: i32) -> [(&'static str, AMQPValue); 1] {
    [("x-message-ttl", int(time))]
}

#[test]
fn a_purged_queue_is_empty_at_once_and_its_memory_comes_back_in_portions() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.fill("q", 20_000);
    let held = scene.host.held_bytes();
    let purged = scene.portion(|scene| scene.host.purge_queue(me(), "q"));
    assert_eq!(purged, Ok(20_000));
    assert_eq!(scene.host.queue_depth("q"), Some((0, 0)));
    assert!(scene.host.held_bytes() > held / 2, "it is still there");
    scene.publish("", "q", "next");
    // Those who purge what is left do not do the first one's work.
    let before = scene.host.work();
    assert_eq!(scene.host.purge_queue(me(), "q"), Ok(1));
    assert!(scene.host.work() - before < 10);
    assert!(scene.finish() >= 18);
    assert_eq!(scene.host.held_bytes(), 0);
    assert_eq!(scene.host.next_deadline(), None);
}

#[test]
fn a_deleted_queue_takes_what_was_ready_and_what_was_lent_in_portions() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    scene.fill("q", 8_000);
    scene.outlet.room.insert(1, 3_000);
    scene.subscribe(1, "q");
    assert_eq!(scene.host.queue_depth("q"), Some((5_000, 3_000)));
    scene.outlet.lent.clear();
    let deleted = scene.portion(|scene| {
        let (host, outlet) = (&mut scene.host, &mut scene.outlet);
        host.delete_queue(me(), "q", false, false, outlet)
    });
    assert_eq!(deleted, Ok(5_000));
    assert_eq!(scene.host.queue_depth("q"), None);
    assert!(scene.host.held_bytes() > 0);
    assert!(scene.finish() >= 6);
    assert_eq!(scene.host.held_bytes(), 0);
}

#[test]
fn a_queue_whose_messages_expired_together_is_cleared_in_portions_by_whoever_looks() {
    let touches: [fn(&mut Scene); 4] = [
        |scene| assert!(scene.take("q").is_none()),
        |scene| drop(scene.host.check_queue(me(), "q", scene.now)),
        |scene| assert_eq!(scene.publish("", "q", "fresh").queues, 1),
        |scene| scene.subscribe(1, "q"),
    ];
    for touch in touches {
        let mut scene = Scene::new();
        scene.queue("q", ttl(100));
        scene.fill("q", 10_000);
        scene.now += millis(100);
        scene.portion(touch);
        let (ready, _) = scene.host.queue_depth("q").expect("it exists");
        assert!(ready >= 8_000, "{ready}");
        assert!(scene.finish() >= 7);
        let fresh = scene.drain("q");
        assert!(fresh.iter().all(|body| body == "fresh"));
        assert_eq!(scene.trace(), [""; 0], "expired ones are not delivered");
    }
}

#[test]
fn consumers_wait_while_expired_messages_go_and_get_what_is_behind() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    for _ in 0..5_000 {
        let short = BasicProperties::default().with_expiration("100".into());
        scene.publish_with("", "q", "expired", short);
    }
    scene.publish("", "q", "lasting");
    scene.now += millis(100);
    scene.portion(|scene| scene.subscribe(1, "q"));
    scene.portion(|scene| scene.publish("", "q", "last"));
    assert_eq!(scene.trace(), [""; 0]);
    assert!(scene.finish() > 0);
    assert_eq!(scene.trace(), ["1<-lasting", "1<-last"]);
}

#[test]
fn whoever_gets_finds_out_whether_expired_messages_are_in_the_way() {
    let mut scene = Scene::new();
    scene.queue("q", []);
    for _ in 0..5_000 {
        let short = BasicProperties::default().with_expiration("100".into());
        scene.publish_with("", "q", "expired", short);
    }
    scene.publish("", "q", "lasting");
    assert!(!scene.host.is_overdue("q", scene.now));
    scene.now += millis(100);
    let mut asked = 0;
    while scene.portion(|scene| scene.host.is_overdue("q", scene.now)) {
        asked += 1;
        assert!(asked < 100, "no end");
    }
    assert!(asked >= 4);
    assert_eq!(scene.drain("q"), ["lasting"]);
    assert!(!scene.host.is_overdue("none", scene.now));
}

#[test]
fn many_queues_that_expire_together_do_so_in_portions() {
    let mut scene = Scene::new();
    for number in 0..50 {
        let name = format!("q{number}");
        scene.queue(&name, ttl(100));
        scene.fill(&name, 500);
    }
    scene.now += millis(100);
    assert!(scene.finish() >= 24);
    assert_eq!(scene.host.held_bytes(), 0);
    assert_eq!(scene.host.next_deadline(), None);
}

/// Each of the queues sends the message to all others, and these to all but that: as many letters
/// as there are orders of the queues.
fn queues_that_keep_nothing(count: usize) -> Scene {
    let mut scene = Scene::new();
    scene.exchange("dlx", "fanout");
    for number in 0..count {
        let dlx = ("x-dead-letter-exchange", text("dlx"));
        let name = format!("q{number}");
        scene.queue(&name, [dlx, ("x-message-ttl", int(0))]);
        scene.bind("dlx", &name, "");
    }
    scene
}

#[test]
fn dead_letters_that_multiply_go_on_in_portions_and_come_to_an_end() {
    let mut scene = queues_that_keep_nothing(7);
    scene.portion(|scene| scene.publish("dlx", "", "m"));
    assert!(scene.host.held_bytes() > 0, "those on their way are held");
    scene.queue("other", []);
    let before = scene.host.work();
    scene.publish("", "other", "m");
    assert!(
        scene.host.work() - before < 10,
        "others do not send them on"
    );
    assert!(scene.finish() > 10);
    assert_eq!(scene.drain("other"), ["m"]);
    assert_eq!(scene.host.held_bytes(), 0);
}

/// The twelve would send each other a hundred million.
#[test]
fn dead_letters_that_multiply_for_ever_are_dropped() {
    let mut scene = queues_that_keep_nothing(12);
    scene.publish("", "q0", "m");
    let held = scene.host.held_bytes();
    assert!(held < 100_000, "{held}");
    let portions = scene.finish();
    assert!((100..1_000).contains(&portions), "{portions}");
    assert_eq!(scene.host.held_bytes(), 0);
    assert_eq!(scene.host.next_deadline(), None);
}

/// Tables like this one took a second to sort.
#[test]
fn a_forged_history_of_thousands_of_deaths_is_cut() {
    let mut scene = Scene::new();
    let dlx = ("x-dead-letter-exchange", text(""));
    let key = ("x-dead-letter-routing-key", text("dead"));
    scene.queue("q", [dlx, key, ("x-message-ttl", int(0))]);
    scene.queue("dead", []);
    let deaths: Vec<AMQPValue> = (0..5_000)
        .map(|number| AMQPValue::FieldTable(table([("queue", int(number))])))
        .collect();
    let headers = table([("x-death", AMQPValue::FieldArray(deaths.into()))]);
    let properties = BasicProperties::default().with_headers(headers);
    scene.publish_with("", "q", "m", properties);
    let lent = scene.take("dead").expect("it died");
    let headers = lent.message.properties.headers().clone().expect("headers");
    let deaths = headers.inner()["x-death"].as_array().expect("a list");
    assert_eq!(deaths.as_slice().len(), 257);
}
