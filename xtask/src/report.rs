//! Runs named steps one after another, remembers how each went, and sums up.

use std::fmt::{self, Display};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::limit;

/// How a step's work went. The error's first line is a sentence; further ones say what failed in it.
pub(crate) type Outcome = Result<(), String>;

/// A failed step does not stop the ones after it: one run shows everything there is to mend.
#[derive(Debug)]
pub(crate) struct Report {
    command: &'static str,
    /// How long a step may take.
    limit: Option<Duration>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    step: String,
    took: Duration,
    verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    /// The step cannot run on this machine.
    Skipped(&'static str),
    Failed(String),
}

impl Report {
    pub(crate) fn new(command: &'static str) -> Self {
        Self {
            command,
            limit: None,
            rows: Vec::new(),
        }
    }

    /// A step that takes longer than this is ended, with all it started, and has failed.
    pub(crate) fn limit_steps(&mut self, limit: Duration) {
        self.limit = Some(limit);
    }

    /// Runs a step and says whether it passed, for steps that build on it.
    pub(crate) fn step(&mut self, name: impl Into<String>, work: impl FnOnce() -> Outcome) -> bool {
        let step = name.into();
        println!("\n=== {step}");
        let start = Instant::now();
        let outcome = match self.limit {
            Some(limit) => limit::within(limit, work),
            None => work(),
        };
        let passed = outcome.is_ok();
        self.close(Row {
            step,
            took: start.elapsed(),
            verdict: outcome.map_or_else(Verdict::Failed, |()| Verdict::Passed),
        });
        passed
    }

    /// Puts on record that a step was left out, and why.
    pub(crate) fn skip(&mut self, name: impl Into<String>, reason: &'static str) {
        let step = name.into();
        println!("\n=== {step}");
        self.close(Row {
            step,
            took: Duration::ZERO,
            verdict: Verdict::Skipped(reason),
        });
    }

    /// Prints what failed, the table and the closing line: whoever sees only the end sees why.
    pub(crate) fn finish(self) -> ExitCode {
        for row in &self.rows {
            if let Verdict::Failed(problem) = &row.verdict {
                println!("\n=== {}: {problem}", row.step);
            }
        }
        println!("\n{self}");
        if self.count(|verdict| matches!(verdict, Verdict::Failed(_))) == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn close(&mut self, row: Row) {
        println!("--- {row}");
        self.rows.push(row);
    }

    fn count(&self, which: impl Fn(&Verdict) -> bool) -> usize {
        self.rows.iter().filter(|row| which(&row.verdict)).count()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        let total: Duration = self.rows.iter().map(|row| row.took).sum();
        writeln!(f, "{:>9}  in all\n", seconds(total))?;

        let passed = self.count(|verdict| matches!(verdict, Verdict::Passed));
        let skipped = self.count(|verdict| matches!(verdict, Verdict::Skipped(_)));
        let failed = self.count(|verdict| matches!(verdict, Verdict::Failed(_)));
        write!(f, "xtask {}: {} passed", self.command, steps(passed))?;
        if skipped > 0 {
            write!(f, ", {skipped} SKIPPED")?;
        }
        if failed > 0 {
            write!(f, ", {failed} FAILED")?;
        }
        Ok(())
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (took, step) = (seconds(self.took), &self.step);
        match &self.verdict {
            Verdict::Passed => write!(f, "{took:>9}  passed   {step}"),
            Verdict::Skipped(reason) => write!(f, "{took:>9}  SKIPPED  {step}: {reason}"),
            Verdict::Failed(problem) => {
                let sentence = problem.lines().next().unwrap_or_default();
                write!(f, "{took:>9}  FAILED   {step}: {sentence}")
            }
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn steps(count: usize) -> String {
    let noun = if count == 1 { "step" } else { "steps" };
    format!("{count} {noun}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report_of(outcomes: Vec<Outcome>) -> Report {
        let mut report = Report::new("test");
        for (number, outcome) in outcomes.into_iter().enumerate() {
            report.step(format!("step {number}"), || outcome);
        }
        report
    }

    fn closing_line(report: &Report) -> String {
        report.to_string().lines().last().unwrap().to_owned()
    }

    #[test]
    fn the_closing_line_counts_what_passed() {
        let report = report_of(vec![Ok(()), Ok(())]);
        assert_eq!(closing_line(&report), "xtask test: 2 steps passed");
        assert_eq!(report.finish(), ExitCode::SUCCESS);
    }

    #[test]
    fn a_failure_is_counted_named_and_does_not_stop_later_steps() {
        let report = report_of(vec![Err("it broke".to_owned()), Ok(())]);
        assert_eq!(closing_line(&report), "xtask test: 1 step passed, 1 FAILED");
        assert!(report.to_string().contains("FAILED   step 0: it broke"));
        assert_eq!(report.finish(), ExitCode::FAILURE);
    }

    #[test]
    fn the_table_has_a_line_for_each_step_however_much_it_says() {
        let report = report_of(vec![Err("it broke\nand so".to_owned())]);
        assert!(report.to_string().contains("FAILED   step 0: it broke\n"));
        assert!(!report.to_string().contains("and so"));
    }

    #[test]
    fn a_skipped_step_is_no_failure_but_is_never_silent() {
        let mut report = Report::new("test");
        report.skip("fuzz", "no nightly");
        assert_eq!(
            closing_line(&report),
            "xtask test: 0 steps passed, 1 SKIPPED"
        );
        assert!(report.to_string().contains("SKIPPED  fuzz: no nightly"));
        assert_eq!(report.finish(), ExitCode::SUCCESS);
    }
}
