//! How late batches are, told apart by when they were due.

use std::{cell::RefCell, fmt, time::Duration};

use hdrhistogram::Histogram;
use thread_local::ThreadLocal;

/// In microseconds. What is later than a minute counts as a minute.
const LATEST: u64 = 60_000_000;

/// Figures are right to one in a hundred, and a histogram takes 10 kB.
const DIGITS: u8 = 2;

/// So many batches, of more than a second, are enough for a p99, whatever share of the run the host left
/// alone.
const ENOUGH: u64 = 1_000_000;

/// A histogram for each slice of time, of each thread: those whose lateness is measured do not wait for
/// each other.
#[derive(Debug)]
pub struct Record {
    slice: Duration,
    threads: ThreadLocal<RefCell<Vec<Late>>>,
}

impl Record {
    /// In slices of this length.
    pub fn in_slices_of(slice: Duration) -> Self {
        Self {
            slice,
            threads: ThreadLocal::new(),
        }
    }

    /// Enters a batch in the slice in which it was due, whenever it was handled.
    pub fn enter(&self, due: Duration, handled: Duration) {
        let slice = due.div_duration_f64(self.slice) as usize;
        let mut slices = self.threads.get_or_default().borrow_mut();
        if slices.len() <= slice {
            slices.resize_with(slice + 1, Late::default);
        }
        slices[slice].enter(handled.saturating_sub(due));
    }

    /// What all threads entered, by slice.
    pub fn into_slices(self) -> Vec<Late> {
        let mut sum = Vec::new();
        for slices in self.threads {
            let slices = slices.into_inner();
            sum.resize_with(sum.len().max(slices.len()), Late::default);
            for (sum, late) in sum.iter_mut().zip(&slices) {
                sum.add(late);
            }
        }
        sum
    }
}

/// The batches of some slices.
#[derive(Debug, Clone)]
pub struct Late(Histogram<u32>);

impl Default for Late {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LATEST, DIGITS).expect("sound bounds"))
    }
}

impl Late {
    fn enter(&mut self, late: Duration) {
        self.0.saturating_record(late.as_micros() as u64);
    }

    fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the same bounds");
    }

    /// How many batches they are.
    pub fn batches(&self) -> u64 {
        self.0.len()
    }

    /// How late at most this share of them was, in milliseconds; none of no batches.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let late = || self.0.value_at_quantile(share) as f64 / 1e3;
        (!self.0.is_empty()).then(late)
    }
}

impl<'a> FromIterator<&'a Late> for Late {
    fn from_iter<I: IntoIterator<Item = &'a Late>>(slices: I) -> Self {
        let mut sum = Self::default();
        for slice in slices {
            sum.add(slice);
        }
        sum
    }
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = |share| {
            let late = self.quantile(share);
            late.map_or_else(|| "–".into(), |late| format!("{late:.2}"))
        };
        let [p50, p99, worst] = [0.5, 0.99, 1.0].map(figure);
        write!(f, "p50 {p50}, p99 {p99}, worst {worst} ms")
    }
}

/// What was seen of a run.
#[derive(Debug)]
pub struct Lateness {
    /// All batches.
    pub all: Late,
    /// Those that were due while the host took nothing.
    pub quiet: Late,
    /// Those that were due in the first slice.
    pub first: Late,
}

impl Lateness {
    /// Of these slices, some of which were loud.
    pub fn of(slices: &[Late], loud: &[bool]) -> Self {
        let is_quiet = |at: usize| loud.get(at) != Some(&true);
        let quiet = slices.iter().enumerate().filter(|(at, _)| is_quiet(*at));
        Self {
            all: slices.iter().collect(),
            quiet: quiet.map(|(_, late)| late).collect(),
            first: slices.iter().take(1).collect(),
        }
    }

    /// The share that some of all batches are.
    pub fn share(&self, some: &Late) -> f64 {
        some.batches() as f64 / self.all.batches().max(1) as f64
    }

    /// The quiet batches, where these are enough to speak for all.
    pub fn enough_quiet(&self) -> Option<&Late> {
        (self.quiet.batches() >= ENOUGH).then_some(&self.quiet)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SLICE: Duration = Duration::from_millis(100);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Of batches that were due, and handled, so many milliseconds after the start.
    fn slices(batches: &[(u64, u64)]) -> Vec<Late> {
        let record = Record::in_slices_of(SLICE);
        for &(due, handled) in batches {
            record.enter(ms(due), ms(handled));
        }
        record.into_slices()
    }

    /// Within a hundredth.
    fn is_about(figure: Option<f64>, expected: f64) -> bool {
        figure.is_some_and(|figure| (figure - expected).abs() <= expected / 100.0)
    }

    #[test]
    fn a_batch_belongs_to_the_slice_in_which_it_was_due() {
        let slices = slices(&[(99, 350), (100, 110), (199, 200)]);
        let batches: Vec<u64> = slices.iter().map(Late::batches).collect();
        assert_eq!(batches, [1, 2]);
        assert!(is_about(slices[0].quantile(1.0), 251.0));
        assert!(is_about(slices[1].quantile(1.0), 10.0));
    }

    #[test]
    fn what_threads_entered_is_summed_by_slice() {
        let record = Record::in_slices_of(SLICE);
        let enter = |slices: &[u32]| {
            for slice in slices {
                record.enter(*slice * SLICE, *slice * SLICE + ms(7));
            }
        };
        enter(&[0, 1, 2]);
        thread::scope(|scope| {
            scope.spawn(|| enter(&[0, 0, 1]));
        });
        let slices = record.into_slices();
        let batches: Vec<u64> = slices.iter().map(Late::batches).collect();
        assert_eq!(batches, [3, 2, 1]);
    }

    #[test]
    fn figures_are_of_as_many_batches_as_they_say() {
        let batches: Vec<(u64, u64)> = (1..=1_000).map(|late| (0, late)).collect();
        let late = &slices(&batches)[0];
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            assert!(is_about(late.quantile(share), expected), "{late}");
        }
    }

    #[test]
    fn nothing_is_known_of_no_batches_and_they_do_not_count_as_punctual() {
        let none = Lateness::of(&[], &[]);
        assert_eq!(none.all.quantile(0.99), None);
        assert_eq!(none.all.to_string(), "p50 –, p99 –, worst – ms");
        assert!(none.enough_quiet().is_none());
    }

    #[test]
    fn batches_due_in_loud_slices_count_among_all_only() {
        let slices = slices(&[(50, 59), (150, 190), (250, 251), (350, 351)]);
        let seen = Lateness::of(&slices, &[false, true, false]);
        assert_eq!((seen.all.batches(), seen.quiet.batches()), (4, 3));
        assert!(is_about(seen.all.quantile(1.0), 40.0));
        assert!(is_about(seen.quiet.quantile(1.0), 9.0), "the first is one");
        assert!(is_about(seen.first.quantile(1.0), 9.0));
    }

    #[test]
    fn quiet_batches_speak_for_all_if_they_are_many() {
        let of = |quiet: u64| {
            let record = Record::in_slices_of(SLICE);
            (0..ENOUGH).for_each(|_| record.enter(ms(50), ms(50)));
            (0..quiet).for_each(|_| record.enter(ms(150), ms(150)));
            Lateness::of(&record.into_slices(), &[true, false])
        };
        assert!(of(ENOUGH).enough_quiet().is_some());
        assert!(of(ENOUGH - 1).enough_quiet().is_none());
    }
}
