//! The command line.

use std::env::args;
use std::str::FromStr;

use crate::scenarios::Scenario;

pub const USAGE: &str = "\
usage: wharf-compare [options] [name...]
  name              only the scenarios with this in their name, if there are any
  --rounds N        rounds per scenario
  --quick           few rounds: enough to see a broken promise, not to quote a figure
  --scenario NAME   only this one (alone, together, queue, crowd, allocations); may be repeated
  --only NAME       only this contender; may be repeated
  --without NAME    not this contender; may be repeated";

/// Chosen so that the whole takes three to four minutes on two processors.
const ROUNDS: usize = 100;
const QUICK: usize = 9;

pub struct Options {
    pub rounds: usize,
    pub scenarios: Vec<Scenario>,
    only: Vec<String>,
    without: Vec<String>,
}

impl Options {
    pub fn parse() -> Result<Self, String> {
        let mut options = Self {
            rounds: ROUNDS,
            scenarios: Vec::new(),
            only: Vec::new(),
            without: Vec::new(),
        };
        let mut names = Vec::new();
        let mut words = args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => options.rounds = QUICK,
                "--rounds" => options.rounds = value(&word, words.next())?,
                "--scenario" => options.scenarios.push(value(&word, words.next())?),
                "--only" => options.only.push(value(&word, words.next())?),
                "--without" => options.without.push(value(&word, words.next())?),
                _ if word.starts_with('-') => return Err(format!("unknown option {word}")),
                _ => names.push(word),
            }
        }
        if options.rounds == 0 {
            return Err("--rounds must be at least 1".into());
        }
        if options.scenarios.is_empty() {
            options.scenarios = named(&names);
        }
        Ok(options)
    }

    pub fn wants(&self, contender: &str) -> bool {
        let named = |names: &[String]| names.iter().any(|name| name == contender);
        (self.only.is_empty() || named(&self.only)) && !named(&self.without)
    }
}

/// The scenarios with one of the names in theirs, or all if there is no name.
fn named(names: &[String]) -> Vec<Scenario> {
    let mut scenarios = Scenario::ALL.to_vec();
    if !names.is_empty() {
        scenarios.retain(|scenario| {
            names
                .iter()
                .any(|name| scenario.name().contains(name.as_str()))
        });
    }
    scenarios
}

fn value<T: FromStr>(option: &str, word: Option<String>) -> Result<T, String> {
    let word = word.ok_or(format!("{option} needs a value"))?;
    word.parse()
        .map_err(|_| format!("{option} cannot be {word}"))
}
