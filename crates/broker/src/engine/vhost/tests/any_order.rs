//! Any commands in any order.

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Declare(usize, usize),
    Delete(usize),
    Purge(usize),
    Bind(usize, usize),
    Unbind(usize, usize),
    Publish(usize, usize),
    Subscribe(u64, usize),
    Unsubscribe(u64),
    Resume(u64),
    Get(usize),
    Settle(usize, usize),
    Pass(u64),
}

const QUEUES: [&str; 3] = ["a", "b", "c"];
const EXCHANGES: [&str; 5] = ["", "amq.direct", "amq.fanout", "amq.topic", "amq.headers"];
const SETTLEMENTS: [Settlement; 3] = [Settlement::Ack, Settlement::Requeue, Settlement::Discard];

/// Arguments whose queues send their dead letters to each other.
fn arguments(kind: usize) -> FieldTable {
    let dlx = || ("x-dead-letter-exchange", text(""));
    let to = |queue| ("x-dead-letter-routing-key", text(queue));
    match kind {
        0 => table([]),
        1 => table([dlx(), to("a"), ("x-message-ttl", int(20))]),
        2 => table([dlx(), to("b"), ("x-max-length", int(2))]),
        3 => table([
            dlx(),
            to("c"),
            ("x-max-priority", int(3)),
            ("x-expires", int(50)),
        ]),
        _ => table([
            ("x-single-active-consumer", AMQPValue::Boolean(true)),
            ("x-max-length-bytes", int(3)),
            ("x-overflow", text("reject-publish")),
        ]),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (queue, exchange, number) = (0..QUEUES.len(), 1..EXCHANGES.len(), 0..4_u64);
    prop_oneof![
        2 => (queue.clone(), 0..5_usize).prop_map(|(q, kind)| Step::Declare(q, kind)),
        1 => queue.clone().prop_map(Step::Delete),
        1 => queue.clone().prop_map(Step::Purge),
        1 => (exchange.clone(), queue.clone()).prop_map(|(x, q)| Step::Bind(x, q)),
        1 => (exchange, queue.clone()).prop_map(|(x, q)| Step::Unbind(x, q)),
        6 => (0..EXCHANGES.len(), queue.clone()).prop_map(|(x, q)| Step::Publish(x, q)),
        2 => (number.clone(), queue.clone()).prop_map(|(n, q)| Step::Subscribe(n, q)),
        1 => number.clone().prop_map(Step::Unsubscribe),
        2 => number.prop_map(Step::Resume),
        2 => queue.prop_map(Step::Get),
        4 => (0..20_usize, 0..SETTLEMENTS.len()).prop_map(|(at, how)| Step::Settle(at, how)),
        2 => (0..60_u64).prop_map(Step::Pass),
    ]
}

impl Scene {
    /// Does a step, whose refusal is no failure.
    fn take_step(&mut self, step: Step) {
        let none = FieldTable::default();
        let now = self.now;
        match step {
            Step::Declare(q, kind) => drop(self.declare(QUEUES[q], &arguments(kind))),
            Step::Delete(q) => {
                let outlet = &mut self.outlet;
                drop(
                    self.host
                        .delete_queue(me(), QUEUES[q], false, false, outlet),
                );
            }
            Step::Purge(q) => drop(self.host.purge_queue(me(), QUEUES[q])),
            Step::Bind(x, q) => {
                let spec = binding_spec(EXCHANGES[x], QUEUES[q], QUEUES[q], &none);
                drop(self.host.bind(me(), spec));
            }
            Step::Unbind(x, q) => {
                let spec = binding_spec(EXCHANGES[x], QUEUES[q], QUEUES[q], &none);
                drop(self.host.unbind(me(), spec));
            }
            Step::Publish(x, q) => {
                let urgent = BasicProperties::default().with_priority(2);
                self.publish_with(EXCHANGES[x], QUEUES[q], "m", urgent);
            }
            Step::Subscribe(number, q) => {
                self.unsubscribe(number);
                self.outlet.room.insert(number, 1);
                drop(self.subscribe_with(number, QUEUES[q], false, &none));
            }
            Step::Unsubscribe(number) => self.unsubscribe(number),
            Step::Resume(number) => {
                self.outlet.room.insert(number, 2);
                self.resume(number);
            }
            Step::Get(q) => {
                let got = self.host.get(me(), QUEUES[q], false, now, &mut self.outlet);
                self.outlet
                    .lent
                    .extend(got.ok().flatten().map(|got| got.lent));
            }
            Step::Settle(at, how) if at < self.outlet.lent.len() => {
                let lent = self.outlet.lent.remove(at);
                let (host, outlet) = (&mut self.host, &mut self.outlet);
                host.settle(
                    [],
                    [(lent.queue, lent.number, SETTLEMENTS[how])],
                    now,
                    outlet,
                );
            }
            Step::Settle(..) => {}
            Step::Pass(time) => self.pass(millis(time)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Nothing panics, a queue never knows of more loans than there are, and nothing is left when
    /// all queues are gone.
    #[test]
    fn any_commands_in_any_order_leave_nothing_behind(steps in vec(step(), 0..200)) {
        let mut scene = Scene::new();
        for step in steps {
            scene.take_step(step);
            let lent = &scene.outlet.lent;
            let known: usize = (QUEUES.iter())
                .filter_map(|queue| scene.host.queue_depth(queue))
                .map(|(_, lent)| lent)
                .sum();
            prop_assert!(known <= lent.len());
        }
        for queue in 0..QUEUES.len() {
            scene.take_step(Step::Delete(queue));
        }
        prop_assert_eq!(scene.host.held_bytes(), 0);
        prop_assert_eq!(scene.host.next_deadline(), None);
        prop_assert_eq!(scene.publish("amq.fanout", "", "m").queues, 0);
    }
}
