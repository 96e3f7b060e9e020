//! What the user's code may do to the pool from inside: anything.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use wharf::{Event, Manager, Pool, Retirement};

struct Numbers;

impl Manager for Numbers {
    type Resource = u32;
    type Error = Infallible;

    async fn create(&self) -> Result<u32, Infallible> {
        Ok(7)
    }
}

/// `resize` told its observers of the surplus while it still kept other calls of `resize` out. An
/// observer that called it as well hung, and so did whatever thread it was called on.
#[test]
fn an_observer_may_resize_while_the_pool_is_being_resized() {
    let (done, over) = mpsc::channel();
    thread::spawn(move || {
        let itself = Arc::new(OnceLock::<Pool<Numbers>>::new());
        let known = Arc::clone(&itself);
        let pool = Pool::builder(Numbers)
            .max_active(3)
            .observer(move |event: &Event<'_>| {
                if let Event::Retired {
                    why: Retirement::Surplus,
                } = event
                {
                    let pool = known.get().expect("known before anything happens");
                    pool.resize(2).expect("a sound bound");
                }
            })
            .build()
            .expect("the configuration is sound");
        itself.set(pool.clone()).expect("set once");
        for number in 0..3 {
            pool.add(number).expect("there is room");
        }
        pool.resize(1).expect("a sound bound");
        done.send(pool.status().max_active)
    });
    let max_active = over.recv_timeout(Duration::from_secs(10));
    assert_eq!(max_active, Ok(2), "the observer's call came last");
}

struct Failing;

impl Manager for Failing {
    type Resource = u32;
    type Error = std::fmt::Error;

    async fn create(&self) -> Result<u32, std::fmt::Error> {
        Ok(7)
    }

    async fn check(&self, _: &mut u32) -> Result<(), std::fmt::Error> {
        Err(std::fmt::Error)
    }
}

/// A resource that failed its keep-alive check was retired before upkeep's hold on it ended. Whoever
/// asked for the status in between, as an observer may, had one resource fewer than upkeep held.
#[tokio::test(start_paused = true)]
async fn an_observer_of_a_failed_check_sees_a_status_that_adds_up() {
    let itself = Arc::new(OnceLock::<Pool<Failing>>::new());
    let known = Arc::clone(&itself);
    let (seen, statuses) = mpsc::channel();
    let pool = Pool::builder(Failing)
        .max_active(3)
        .keep_alive(Duration::from_secs(1))
        .observer(move |event: &Event<'_>| {
            if let Event::Retired { .. } = event {
                let status = known.get().expect("known before anything happens").status();
                let _ = seen.send((status.leased, status.upkeep, status.idle, status.closing));
            }
        })
        .build()
        .expect("the configuration is sound");
    itself.set(pool.clone()).expect("set once");
    pool.add(1).expect("there is room");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let seen: Vec<_> = statuses.try_iter().collect();
    assert_eq!(seen, [(0, 0, 0, 1)], "leased, in upkeep, idle, closing");
}
