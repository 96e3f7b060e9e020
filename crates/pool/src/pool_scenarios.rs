//! Meetings of threads in a whole pool, through its public face: the short ways and the futures
//! as they are, where `scenarios` has the parts.
//!
//! The runtime is there to be spawned on and never runs, so that what is to be destroyed stays
//! and can be counted.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::runtime::{self, Runtime};

use crate::{
    Builder, GetError, Manager, OwnedLease, Pool,
    scenarios::{Bell, meet},
};

/// Counts its uses, without an atomic.
struct Counting;

impl Manager for Counting {
    type Resource = u64;
    type Error = Infallible;

    async fn create(&self) -> Result<u64, Infallible> {
        Ok(0)
    }
}

struct Berth {
    runtime: Runtime,
    pool: Pool<Counting>,
}

type Lease = OwnedLease<Counting>;
type Getting = Pin<Box<dyn Future<Output = Result<Lease, GetError<Infallible>>> + Send>>;

impl Berth {
    /// A pool that is full: `max_active` resources, all idle.
    fn new(max_active: usize) -> Self {
        Self::all_lent(max_active, None).0
    }

    fn all_lent(max_active: usize, max_idle: Option<usize>) -> (Self, Vec<Lease>) {
        let berth = Self::empty(|pool| pool.max_active(max_active).max_idle(max_idle));
        let lend = |_| {
            berth.pool.add(0).unwrap();
            berth.lent()
        };
        let lent = (0..max_active).map(lend).collect();
        (berth, lent)
    }

    /// A pool in which nothing happens by the clock, unless it is asked for.
    fn empty(settings: impl FnOnce(Builder<Counting>) -> Builder<Counting>) -> Self {
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let builder = Pool::builder(Counting)
            .idle_timeout(None)
            .max_lifetime(None)
            .check_interval(None)
            .wait_timeout(None)
            .check_timeout(None)
            .runtime(runtime.handle().clone());
        let pool = settings(builder).build().unwrap();
        Self { runtime, pool }
    }

    fn pool(&self) -> Pool<Counting> {
        self.pool.clone()
    }

    fn lent(&self) -> Lease {
        self.pool.try_get_owned().unwrap()
    }

    /// `[idle, leased, closing, waiting]`
    fn assert_status(&self, expected: [usize; 4]) {
        let status = self.pool.status();
        let found = [status.idle, status.leased, status.closing, status.waiting];
        assert_eq!(found, expected, "[idle, leased, closing, waiting]");
    }

    /// Nothing is lost: a closed pool without a runtime destroys everything on the spot.
    fn end(self) {
        drop(self.runtime);
        drop(self.pool.close());
        let status = self.pool.status();
        assert_eq!(status.active(), 0, "left over: {status:?}");
    }
}

/// A `get` that has been polled once.
enum Polled {
    Has(Lease),
    Waits(Getting, Arc<Bell>),
    Failed(GetError<Infallible>),
}

fn get(pool: &Pool<Counting>) -> Polled {
    poll(Box::pin(pool.get_owned()))
}

/// Polls as a task of its own.
fn poll(mut getting: Getting) -> Polled {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    match getting.as_mut().poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(Ok(lease)) => {
            // Read right where it was received, so that loom sees whether that is safe.
            assert!(*lease < 9);
            Polled::Has(lease)
        }
        Poll::Ready(Err(error)) => Polled::Failed(error),
        Poll::Pending => Polled::Waits(getting, bell),
    }
}

impl Polled {
    /// Whether it has ended, or will at its next poll.
    fn is_over(&self) -> bool {
        match self {
            Polled::Has(_) | Polled::Failed(_) => true,
            Polled::Waits(_, bell) => bell.was_rung(),
        }
    }

    /// How it ends, which must have been told by a wake-up.
    fn ended(self) -> Result<Lease, GetError<Infallible>> {
        match self {
            Polled::Has(lease) => Ok(lease),
            Polled::Failed(error) => Err(error),
            Polled::Waits(getting, bell) => {
                assert!(bell.was_rung(), "it sleeps");
                match poll(getting) {
                    Polled::Has(lease) => Ok(lease),
                    Polled::Failed(error) => Err(error),
                    Polled::Waits(..) => panic!("woken for nothing"),
                }
            }
        }
    }

    /// The lease it must have by now, used once.
    fn lease(self) -> Lease {
        let mut lease = self.ended().expect("a resource was to be had");
        *lease += 1;
        lease
    }
}

fn use_and_put(mut lease: Lease) {
    *lease += 1;
}

pub(crate) fn a_dropped_lease_serves_a_get_that_begins_meanwhile() {
    let berth = Berth::new(1);
    let (lent, pool) = (berth.lent(), berth.pool());
    let ((), polled) = meet::two(move || use_and_put(lent), move || get(&pool));
    let lease = polled.lease();
    assert_eq!(*lease, 2);
    berth.assert_status([0, 1, 0, 0]);
    drop(lease);
    berth.end();
}

pub(crate) fn of_two_gets_one_has_the_resource_and_then_the_other() {
    let berth = Berth::new(1);
    let (one, other) = (berth.pool(), berth.pool());
    let (one, other) = meet::two(move || get(&one), move || get(&other));
    let ((Polled::Has(first), second) | (second, Polled::Has(first))) = (one, other) else {
        panic!("both wait for an idle resource");
    };
    assert!(matches!(second, Polled::Waits(..)));
    use_and_put(first);
    assert_eq!(*second.lease(), 2);
    berth.end();
}

pub(crate) fn a_get_that_is_dropped_while_it_is_served_loses_nothing() {
    let berth = Berth::new(1);
    let (lent, pool) = (berth.lent(), berth.pool());
    let waits = get(&pool);
    meet::two(move || use_and_put(lent), move || drop(waits));
    berth.assert_status([1, 0, 0, 0]);
    assert!(berth.pool.try_get().is_ok());
    berth.end();
}

pub(crate) fn a_get_that_is_dropped_passes_its_grant_to_the_next() {
    let berth = Berth::new(1);
    let (lent, pool) = (berth.lent(), berth.pool());
    let (leaves, stays) = (get(&pool), get(&pool));
    meet::two(move || use_and_put(lent), move || drop(leaves));
    assert_eq!(*stays.lease(), 2);
    berth.assert_status([1, 0, 0, 0]);
    berth.end();
}

pub(crate) fn a_get_that_begins_and_is_dropped_disturbs_nobody() {
    let berth = Berth::new(1);
    let (lent, one, other) = (berth.lent(), berth.pool(), berth.pool());
    let ((), ((), polled)) = meet::two(
        move || use_and_put(lent),
        move || meet::two(move || drop(get(&one)), move || get(&other)),
    );
    drop(polled.lease());
    berth.assert_status([1, 0, 0, 0]);
    berth.end();
}

pub(crate) fn a_get_that_moves_to_another_task_while_it_is_served_is_woken_there() {
    let berth = Berth::new(1);
    let (lent, pool) = (berth.lent(), berth.pool());
    let Polled::Waits(getting, _) = get(&pool) else {
        panic!("nothing is idle");
    };
    let ((), polled) = meet::two(move || use_and_put(lent), move || poll(getting));
    assert_eq!(*polled.lease(), 2);
    berth.end();
}

pub(crate) fn a_lease_that_ends_at_close_is_destroyed() {
    let berth = Berth::new(1);
    let (lent, pool) = (berth.lent(), berth.pool());
    meet::two(move || use_and_put(lent), move || drop(pool.close()));
    berth.assert_status([0, 0, 1, 0]);
    berth.end();
}

pub(crate) fn a_get_during_close_is_answered() {
    let berth = Berth::new(1);
    let (lent, one, other) = (berth.lent(), berth.pool(), berth.pool());
    let ((), ((), polled)) = meet::two(
        move || use_and_put(lent),
        move || meet::two(move || drop(one.close()), move || get(&other)),
    );
    match polled.ended() {
        Ok(lease) => drop(lease),
        Err(error) => assert!(matches!(error, GetError::Closed)),
    }
    berth.assert_status([0, 0, 1, 0]);
    berth.end();
}

pub(crate) fn leases_that_end_during_a_resize_leave_no_surplus() {
    let berth = Berth::new(2);
    let (lent, pool) = ([berth.lent(), berth.lent()], berth.pool());
    meet::two(
        move || lent.into_iter().for_each(use_and_put),
        move || pool.resize(1).unwrap(),
    );
    berth.assert_status([1, 0, 1, 0]);
    berth.end();
}

pub(crate) fn a_lease_that_ends_during_an_invalidation_is_not_lent_again() {
    let berth = Berth::new(1);
    let (lent, pool) = (berth.lent(), berth.pool());
    meet::two(move || use_and_put(lent), move || pool.invalidate_all());
    berth.assert_status([0, 0, 1, 0]);
    assert!(berth.pool.try_get().is_err());
    berth.end();
}

pub(crate) fn leases_that_end_at_once_leave_no_more_idle_than_may_be() {
    let (berth, mut lent) = Berth::all_lent(2, Some(1));
    let (one, other) = (lent.pop().unwrap(), lent.pop().unwrap());
    meet::two(move || use_and_put(one), move || use_and_put(other));
    berth.assert_status([1, 0, 1, 0]);
    berth.end();
}

pub(crate) fn what_retain_looks_at_serves_a_get_that_begins_meanwhile() {
    let berth = Berth::new(1);
    let (one, other) = (berth.pool(), berth.pool());
    let (removed, polled) = meet::two(move || one.retain(|_, _| true), move || get(&other));
    assert_eq!(removed, 0);
    assert_eq!(*polled.lease(), 1);
    berth.end();
}

/// The short way takes it, sees that it is to be checked first, and puts it back for a moment.
pub(crate) fn a_resource_that_is_due_for_a_check_serves_one_of_two_gets_and_then_the_other() {
    let berth = Berth::empty(|pool| pool.max_active(1).check_interval(Duration::from_nanos(1)));
    berth.pool.add(0).unwrap();
    let (one, other) = (berth.pool(), berth.pool());
    let (one, other) = meet::two(move || get(&one), move || get(&other));
    let (first, second) = if one.is_over() {
        (one, other)
    } else {
        (other, one)
    };
    assert!(!second.is_over());
    drop(first.lease());
    assert_eq!(*second.lease(), 2);
    berth.end();
}

/// Hands every scenario to a macro that makes tests of them.
macro_rules! for_each_pool_scenario {
    ($test:ident) => {
        $test! {
            pool_scenarios:
            a_dropped_lease_serves_a_get_that_begins_meanwhile
            of_two_gets_one_has_the_resource_and_then_the_other
            a_get_that_is_dropped_while_it_is_served_loses_nothing
            a_get_that_is_dropped_passes_its_grant_to_the_next
            a_get_that_begins_and_is_dropped_disturbs_nobody
            a_get_that_moves_to_another_task_while_it_is_served_is_woken_there
            a_lease_that_ends_at_close_is_destroyed
            a_get_during_close_is_answered
            leases_that_end_during_a_resize_leave_no_surplus
            a_lease_that_ends_during_an_invalidation_is_not_lent_again
            leases_that_end_at_once_leave_no_more_idle_than_may_be
            a_resource_that_is_due_for_a_check_serves_one_of_two_gets_and_then_the_other
            what_retain_looks_at_serves_a_get_that_begins_meanwhile
        }
    };
}
pub(crate) use for_each_pool_scenario;
