//! What is promised about a pace, held against what was measured.

use std::fmt;

/// What became of the promises.
#[derive(Debug, Default)]
pub struct Verdicts {
    broken: Vec<String>,
}

impl Verdicts {
    /// A promise. One that could not be measured is broken.
    pub fn must(&mut self, measured: Option<f64>, bound: Bound, of: &str) {
        let kept = measured.is_some_and(|figure| bound.holds(figure));
        let line = format!("must {bound} {of}: {}", shown(measured));
        println!("  {line} {}", if kept { "ok" } else { "BROKEN" });
        if !kept {
            self.broken.push(line);
        }
    }

    /// A wish. It decides nothing.
    pub fn aim(&mut self, measured: Option<f64>, bound: Bound, of: &str) {
        let met = measured.is_some_and(|figure| bound.holds(figure));
        let outcome = if met { "met" } else { "not met" };
        println!("  aim  {bound} {of}: {} {outcome}", shown(measured));
    }

    /// Prints the outcome; true if every promise was kept.
    pub fn conclude(&self) -> bool {
        if self.broken.is_empty() {
            println!("every must is kept");
            return true;
        }
        println!("broken:");
        for line in &self.broken {
            println!("  {line}");
        }
        false
    }
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// It may be as large as this.
    AtMost(f64),
    /// It may be as small as this.
    AtLeast(f64),
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(bound) => figure <= bound,
            Self::AtLeast(bound) => figure >= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
        }
    }
}

fn shown(measured: Option<f64>) -> String {
    measured.map_or_else(|| "not measured".into(), |figure| format!("{figure:.3}"))
}
