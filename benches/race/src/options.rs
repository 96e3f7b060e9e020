//! The command line of a comparison.

use std::{env::args, str::FromStr};

/// What a comparison has to choose from.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// The names of the scenarios, in the order they are run in.
    pub scenarios: &'static [&'static str],
    /// Rounds per scenario, unless told otherwise.
    pub rounds: usize,
    /// Enough to see a broken promise, not to quote a figure.
    pub quick: usize,
}

/// What was asked for.
#[derive(Debug)]
pub struct Options {
    /// Rounds per scenario.
    pub rounds: usize,
    /// The scenarios, by name.
    pub scenarios: Vec<&'static str>,
    only: Vec<String>,
    without: Vec<String>,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// What makes no sense, and how to do it right.
    pub fn parse(choice: &Choice) -> Result<Self, String> {
        Self::read(choice, args().skip(1))
            .map_err(|mistake| format!("{mistake}\n{}", usage(choice)))
    }

    fn read(choice: &Choice, words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            rounds: choice.rounds,
            scenarios: Vec::new(),
            only: Vec::new(),
            without: Vec::new(),
        };
        let mut names = Vec::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => options.rounds = choice.quick,
                "--rounds" => options.rounds = value(&word, words.next())?,
                "--scenario" => {
                    let name: String = value(&word, words.next())?;
                    let known = choice.scenarios.iter().find(|known| **known == name);
                    let known = known.ok_or_else(|| format!("there is no scenario {name}"))?;
                    options.scenarios.push(known);
                }
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
            options.scenarios = named(choice, &names);
        }
        Ok(options)
    }

    /// Whether a contender takes part.
    pub fn wants(&self, contender: &str) -> bool {
        let named = |names: &[String]| names.iter().any(|name| name == contender);
        (self.only.is_empty() || named(&self.only)) && !named(&self.without)
    }
}

fn usage(choice: &Choice) -> String {
    let scenarios = choice.scenarios.join(", ");
    format!(
        "\
usage: [options] [name...]
  name              only the scenarios with this in their name, if there are any
  --rounds N        rounds per scenario ({} unless said)
  --quick           few rounds: enough to see a broken promise, not to quote a figure
  --scenario NAME   only this one ({scenarios}); may be repeated
  --only NAME       only this contender; may be repeated
  --without NAME    not this contender; may be repeated",
        choice.rounds
    )
}

/// The scenarios with one of the names in theirs, or all if there is no name.
fn named(choice: &Choice, names: &[String]) -> Vec<&'static str> {
    let mut scenarios = choice.scenarios.to_vec();
    if !names.is_empty() {
        scenarios.retain(|scenario| names.iter().any(|name| scenario.contains(name.as_str())));
    }
    scenarios
}

fn value<T: FromStr>(option: &str, word: Option<String>) -> Result<T, String> {
    let word = word.ok_or(format!("{option} needs a value"))?;
    word.parse()
        .map_err(|_| format!("{option} cannot be {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOICE: Choice = Choice {
        scenarios: &["publish-100", "publish-1000", "consume"],
        rounds: 50,
        quick: 5,
    };

    fn read(line: &str) -> Result<Options, String> {
        Options::read(&CHOICE, line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_name_selects_what_has_it_in_its_own() {
        assert_eq!(read("").unwrap().scenarios, CHOICE.scenarios);
        assert_eq!(
            read("publish").unwrap().scenarios,
            ["publish-100", "publish-1000"]
        );
        assert_eq!(
            read("--scenario publish-100").unwrap().scenarios,
            ["publish-100"]
        );
        assert!(read("nonsense").unwrap().scenarios.is_empty());
    }

    #[test]
    fn rounds_are_chosen_by_number_or_quick() {
        assert_eq!(read("").unwrap().rounds, 50);
        assert_eq!(read("--quick").unwrap().rounds, 5);
        assert_eq!(read("consume --rounds 7").unwrap().rounds, 7);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (line, culprit) in [
            ("--rounds", "--rounds"),
            ("--rounds 0", "at least 1"),
            ("--fast", "--fast"),
            ("--scenario publish", "publish"),
        ] {
            assert!(read(line).unwrap_err().contains(culprit), "{line}");
        }
    }

    #[test]
    fn contenders_are_in_unless_left_out() {
        let options = read("--only wharf --only lapin --without lapin").unwrap();
        assert!(options.wants("wharf"));
        assert!(!options.wants("lapin"));
        assert!(!options.wants("deadpool"));
        assert!(read("").unwrap().wants("deadpool"));
    }
}
