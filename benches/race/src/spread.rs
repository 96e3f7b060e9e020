//! The middle half of a set of figures.

use std::fmt;

/// Two quartiles and the median.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The first quartile.
    pub lower: f64,
    /// The second.
    pub median: f64,
    /// The third.
    pub upper: f64,
}

impl Spread {
    /// None of no figures.
    pub fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        Some(Self {
            lower: quantile(&figures, 0.25)?,
            median: quantile(&figures, 0.5)?,
            upper: quantile(&figures, 0.75)?,
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.3} ({:.3}–{:.3})",
            self.median, self.lower, self.upper
        )
    }
}

/// The nearest rank of sorted figures.
pub fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    let rank = (share * last as f64).round() as usize;
    Some(sorted[rank])
}
