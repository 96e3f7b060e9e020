//! In which slices of a run the host took processors away.

use std::{
    iter::successors,
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

use crate::quiet::stolen;

/// A thread that looks at what the host has taken whenever a slice has ended.
#[derive(Debug)]
pub struct Watch {
    slices: usize,
    looks: JoinHandle<Vec<Look>>,
}

/// What the host had taken of all processors together when so many slices had ended.
#[derive(Debug, Clone, Copy)]
struct Look {
    ended: usize,
    stolen: Duration,
}

impl Watch {
    /// Begins to watch so many slices, each of this length, of what began at `start`.
    pub fn begin(start: Instant, slice: Duration, slices: usize) -> Self {
        let look = move || {
            let ended = start.elapsed().div_duration_f64(slice) as usize;
            stolen().map(|stolen| Look { ended, stolen })
        };
        let next = move |last: &Look| {
            if last.ended >= slices {
                return None;
            }
            let end = slice * (last.ended as u32 + 1);
            sleep(end.saturating_sub(start.elapsed()));
            look()
        };
        let first = look();
        Self {
            slices,
            looks: spawn(move || successors(first, next).collect()),
        }
    }

    /// When all slices have ended, tells which of them were loud: those in which the host took
    /// anything, and their neighbours, as it may be counted late, and what waited in one is late in
    /// the next. Where the system does not tell, none was.
    ///
    /// # Panics
    ///
    /// If the thread did.
    pub fn loud(self) -> Vec<bool> {
        loud(&self.looks.join().expect("no panic"), self.slices)
    }
}

fn loud(looks: &[Look], slices: usize) -> Vec<bool> {
    let mut loud = vec![false; slices];
    for (before, after) in looks.iter().zip(looks.iter().skip(1)) {
        if after.stolen > before.stolen {
            // Whoever looks may be kept waiting as well, for more than one slice.
            let end = slices.min(after.ended + 1);
            loud[before.ended.saturating_sub(1)..end].fill(true);
        }
    }
    loud
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loud ones of eight slices, after looks when so many had ended, with so many ticks taken.
    fn loud_after(looks: &[(usize, u64)]) -> Vec<usize> {
        let looks: Vec<Look> = looks
            .iter()
            .map(|&(ended, ticks)| Look {
                ended,
                stolen: Duration::from_millis(10 * ticks),
            })
            .collect();
        let loud = loud(&looks, 8);
        assert_eq!(loud.len(), 8);
        (0..8).filter(|slice| loud[*slice]).collect()
    }

    #[test]
    fn no_slice_is_loud_while_the_host_takes_nothing() {
        assert!(loud_after(&[(0, 7), (1, 7), (2, 7), (8, 7)]).is_empty());
    }

    #[test]
    fn a_slice_in_which_the_host_took_something_is_loud_and_so_are_its_neighbours() {
        let looks = [(0, 7), (1, 7), (2, 7), (3, 7), (4, 8), (5, 8), (6, 8)];
        assert_eq!(loud_after(&looks), [2, 3, 4]);
    }

    #[test]
    fn the_first_and_the_last_slice_have_one_neighbour() {
        assert_eq!(loud_after(&[(0, 7), (1, 8), (2, 8)]), [0, 1]);
        assert_eq!(loud_after(&[(6, 7), (7, 7), (8, 9)]), [6, 7]);
    }

    #[test]
    fn all_slices_that_a_late_look_covers_are_loud() {
        assert_eq!(loud_after(&[(2, 7), (5, 8), (6, 8)]), [1, 2, 3, 4, 5]);
        assert_eq!(loud_after(&[(7, 7), (11, 8)]), [6, 7]);
    }

    #[test]
    fn no_slice_is_loud_where_the_system_does_not_tell() {
        assert!(loud_after(&[]).is_empty());
        assert!(loud_after(&[(0, 7)]).is_empty());
    }

    #[test]
    fn every_slice_is_told_of_when_all_have_ended() {
        let start = Instant::now();
        let slice = Duration::from_millis(1);
        assert_eq!(Watch::begin(start, slice, 3).loud().len(), 3);
        assert!(start.elapsed() >= 3 * slice);
    }
}
