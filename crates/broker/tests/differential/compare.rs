//! Two brokers in lock-step.

use std::cell::Cell;
use std::env;
use std::time::{Duration, Instant};

use futures_util::future::{LocalBoxFuture, join};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::Runtime;

use crate::operations::Scenario;
use crate::random::scenarios;
use crate::side::Side;

/// How long the slower of two brokers may take to show what the other shows.
const AGREEMENT: Duration = Duration::from_secs(2);

/// Between two looks. Nothing depends on its length: it keeps the looks from filling the machine.
const PAUSE: Duration = Duration::from_millis(5);

/// RabbitMQ's processes race here and there, and one order is as good as the other. A scenario
/// counts as disagreed upon only when no attempt of so many agrees, and as many runs of RabbitMQ
/// beside itself all do.
const ATTEMPTS: u32 = 3;

/// One scenario of so many, at most, may be one that RabbitMQ itself does not repeat.
const REPEATABLE: u32 = 8;

/// Draws the scenarios of a run that is not told which. A search among others is a run of its own:
/// what it finds is news about the broker, not about the change at hand.
const SEED: u64 = 2026;

/// How many scenarios, and which.
#[derive(Debug)]
pub(crate) struct Cases {
    pub(crate) count: u32,
    seed: u64,
}

impl Cases {
    /// `WHARF_DIFFERENTIAL_CASES` says how many, `WHARF_DIFFERENTIAL_SEED` which: a number, or `any`.
    /// Without it they are the same in each run.
    pub(crate) fn from_environment(default: u32) -> Self {
        let number = |name: &str| env::var(name).ok().and_then(|value| value.parse().ok());
        let count = number("WHARF_DIFFERENTIAL_CASES").map_or(default, |count: u64| {
            u32::try_from(count).expect("a number of cases fits 32 bits")
        });
        let seed = match env::var("WHARF_DIFFERENTIAL_SEED").as_deref() {
            Ok("any") => fastrand::u64(..),
            Ok(seed) => seed.parse().expect("a number, or `any`"),
            Err(_) => SEED,
        };
        Self { count, seed }
    }

    fn runner(&self) -> TestRunner {
        println!(
            "WHARF_DIFFERENTIAL_SEED={} draws the same scenarios again",
            self.seed
        );
        let config = Config {
            cases: self.count,
            failure_persistence: None,
            // Each try is a run on two brokers, and those that disagree wait for agreement.
            max_shrink_iters: 200,
            max_shrink_time: 90_000,
            ..Config::default()
        };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
    }
}

type Twins<H> = dyn Fn(&H) -> LocalBoxFuture<'_, (Side, Side)>;

/// Runs random scenarios on two brokers, and panics with the shortest found that they disagree on.
/// `twins` are two of the one that is the measure: what these disagree on says nothing.
pub(crate) fn compare<H>(
    cases: &Cases,
    prepare: impl AsyncFn() -> H,
    sides: &impl AsyncFn(&H) -> (Side, Side),
    twins: Option<&Twins<H>>,
) {
    let runtime = Runtime::new().expect("a runtime");
    let home = runtime.block_on(prepare());
    let begun = Instant::now();
    let failed = Cell::new(false);
    let left_out = Cell::new(0);
    let outcome = cases.runner().run(&scenarios(), |scenario| {
        runtime.block_on(async {
            let mut outcome = Ok(());
            // While it shrinks, the first word is the last.
            let attempts = if failed.get() { 1 } else { ATTEMPTS };
            for _ in 0..attempts {
                let brokers = sides(&home).await;
                outcome = Box::pin(attempt(&scenario, brokers)).await;
                match &outcome {
                    Ok(()) => break,
                    Err(_) if failed.get() => {}
                    Err(difference) => println!("disagreement: {difference}"),
                }
            }
            if let (Err(_), Some(twins)) = (&outcome, twins) {
                for _ in 0..ATTEMPTS {
                    let twins = twins(&home).await;
                    if Box::pin(attempt(&scenario, twins)).await.is_err() {
                        left_out.set(left_out.get() + u32::from(!failed.get()));
                        return Ok(());
                    }
                }
            }
            failed.set(failed.get() || outcome.is_err());
            outcome.map_err(TestCaseError::fail)
        })
    });
    let left_out = left_out.get();
    match outcome {
        Ok(()) => println!(
            "{} scenarios agree, {left_out} are left to chance, {:?}",
            cases.count - left_out,
            begun.elapsed()
        ),
        Err(TestError::Fail(disagreement, scenario)) => {
            panic!("{disagreement}\n{}", scenario.listing())
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
    assert!(
        left_out * REPEATABLE <= cases.count,
        "{left_out} scenarios compare nothing"
    );
}

/// One scenario, step by step. What is left behind is cleaned whatever came out.
async fn attempt(scenario: &Scenario, (mut one, mut other): (Side, Side)) -> Result<(), String> {
    let outcome = run(scenario, &mut one, &mut other).await;
    join(one.clean(), other.clean()).await;
    outcome
}

async fn run(scenario: &Scenario, one: &mut Side, other: &mut Side) -> Result<(), String> {
    for (number, step) in scenario.steps.iter().enumerate() {
        let (left, right) = join(one.perform(step, scenario), other.perform(step, scenario)).await;
        let at = || {
            format!(
                "step {number}, {}.{} {:?}",
                step.connection, step.channel, step.operation
            )
        };
        if left != right {
            return Err(format!("{}:\n  one:   {left}\n  other: {right}", at()));
        }
        agree(one, other)
            .await
            .map_err(|difference| format!("{} ({left}):\n{difference}", at()))?;
    }
    join(one.disconnect(), other.disconnect()).await;
    agree(one, other)
        .await
        .map_err(|difference| format!("at the end:\n{difference}"))?;
    let (left, right) = join(one.contents(), other.contents()).await;
    if left == right {
        Ok(())
    } else {
        Err(format!(
            "contents at the end:\n{}",
            difference(&left, &right)
        ))
    }
}

/// Waits until both show the same, twice in a row.
async fn agree(one: &mut Side, other: &mut Side) -> Result<(), String> {
    let deadline = Instant::now() + AGREEMENT;
    let mut before = None;
    loop {
        let (left, right) = join(one.look(), other.look()).await;
        if left == right && before.as_ref() == Some(&left) {
            one.agreed(&left);
            other.agreed(&right);
            return Ok(());
        }
        if left != right && Instant::now() > deadline {
            return Err(difference(&left, &right));
        }
        before = (left == right).then_some(left);
        tokio::time::sleep(PAUSE).await;
    }
}

fn difference(left: &[String], right: &[String]) -> String {
    let only = |these: &[String], those: &[String]| -> String {
        let lines = these.iter().filter(|line| !those.contains(line));
        lines.map(|line| format!("    {line}\n")).collect()
    };
    format!(
        "  only one:\n{}  only other:\n{}",
        only(left, right),
        only(right, left)
    )
}

impl Scenario {
    fn listing(&self) -> String {
        let numbered = |(number, text): (usize, String)| format!("  {number}: {text}\n");
        let queues: String = self
            .queues
            .iter()
            .map(|spec| format!("{spec:?}"))
            .enumerate()
            .map(numbered)
            .collect();
        let exchanges: String = self
            .exchanges
            .iter()
            .map(|spec| format!("{spec:?}"))
            .enumerate()
            .map(numbered)
            .collect();
        let steps = self
            .steps
            .iter()
            .map(|step| format!("{}.{} {:?}", step.connection, step.channel, step.operation));
        let steps: String = steps.enumerate().map(numbered).collect();
        format!("queues:\n{queues}exchanges:\n{exchanges}steps:\n{steps}")
    }
}
