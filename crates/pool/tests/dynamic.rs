//! Managers behind a box or a reference count.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Fault, Step, Widget, Works, pass, settle};
use wharf::{Cause, DynManager, Failure, GetError, Manager, Pool};

const SECOND: Duration = Duration::from_secs(1);

type Boxed = Box<dyn DynManager<Resource = Widget, Error = Fault>>;

/// Has every method called once or more, and sees what each says through the wrapper.
async fn every_method_is_passed_on<M>(works: &Works, manager: M)
where
    M: Manager<Resource = Widget, Error = Fault>,
{
    let pool = Pool::builder(manager)
        .max_active(1)
        .check_interval(SECOND)
        .build()
        .unwrap();
    works.create.next(Step::Refuse);
    let error = pool.get().await.unwrap_err();
    assert!(matches!(error, GetError::Refused(Cause::Failed(_))));
    assert_eq!(works.classify.calls(), 1);

    drop(pool.get().await.unwrap());
    works.is_alive.next(Step::Refuse);
    assert_eq!(pool.get().await.unwrap().id, 1);

    works.check.next(Step::Outage);
    pass(2 * SECOND).await;
    assert_eq!(pool.get().await.unwrap().id, 2);

    works.reset.next(Step::Refuse);
    drop(pool.get().await.unwrap());
    settle().await;
    assert_eq!((works.existing(), works.destroy.calls()), (0, 3));

    drop(pool.get().await.unwrap());
    pool.close().await;
    assert_eq!((works.existing(), works.destroy.calls()), (0, 4));
}

#[tokio::test(start_paused = true)]
async fn a_boxed_manager_passes_every_method_on() {
    let works = Works::new();
    let boxed: Boxed = Box::new(works.clone());
    every_method_is_passed_on(&works, boxed).await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_manager_passes_every_method_on() {
    let works = Works::new();
    every_method_is_passed_on(&works, Arc::new(works.clone())).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_chosen_at_run_time() {
    struct Other(Works);

    impl Manager for Other {
        type Resource = Widget;
        type Error = Fault;

        async fn create(&self) -> Result<Widget, Fault> {
            let mut widget = Manager::create(&self.0).await?;
            widget.id += 1000;
            Ok(widget)
        }

        fn classify(&self, _: &Fault) -> Failure {
            Failure::Outage
        }
    }

    for other in [false, true] {
        let works = Works::new();
        let boxed: Boxed = if other {
            Box::new(Other(works))
        } else {
            Box::new(works)
        };
        let pool = Pool::builder(boxed).build().unwrap();
        assert_eq!(pool.get().await.unwrap().id >= 1000, other);
        pool.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn panics_and_hangs_behind_a_box_are_met_all_the_same() {
    let works = Works::new();
    works.create.next(Step::Panic).next(Step::Hang);
    let boxed: Boxed = Box::new(works.clone());
    let pool = Pool::builder(boxed)
        .max_active(1)
        .create_timeout(SECOND)
        .build()
        .unwrap();
    drop(pool.get().await.unwrap());
    assert_eq!(works.create.calls(), 3);
    pool.close().await;
    assert_eq!(works.existing(), 0);
}
