//! The command line: what may be asked for, and the page that says so.

use std::num::NonZeroU32;

use crate::rabbit;

pub(crate) const USAGE: &str = "\
usage: cargo xtask <command>

  test                      every check that must hold before a change goes in
  bench [name…]             criterion benchmarks, then the comparison with other pools;
                            names select benchmarks and scenarios
  rabbit up|down            a private RabbitMQ node that stays until it is taken down
  deny                      licences, bans, sources and advisories (needs the network)

Longer campaigns of single parts of `test`:

  loom [--preemptions N]    every interleaving with up to N preemptions (default 3)
  model [--cases N]         N random histories against the reference model (default 100000)
  stress [--millions N]     N million operations on real threads (default 20)
  fuzz [--seconds N] [target]
                            N seconds of fuzzing per target (default 300), needs nightly

  --help                    this page
";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Help,
    Test,
    Bench {
        names: Vec<String>,
    },
    Loom {
        preemptions: NonZeroU32,
    },
    Fuzz {
        seconds: NonZeroU32,
        target: Option<String>,
    },
    Model {
        cases: NonZeroU32,
    },
    Stress {
        millions: NonZeroU32,
    },
    Rabbit(rabbit::Change),
    Deny,
}

impl Task {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Help => "help",
            Self::Test => "test",
            Self::Bench { .. } => "bench",
            Self::Loom { .. } => "loom",
            Self::Fuzz { .. } => "fuzz",
            Self::Model { .. } => "model",
            Self::Stress { .. } => "stress",
            Self::Rabbit(_) => "rabbit",
            Self::Deny => "deny",
        }
    }
}

/// Reads the arguments that follow the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Task, String> {
    let mut args = Args(args.into_iter().collect());
    if args.take_flag("--help") || args.take_flag("-h") {
        return Ok(Task::Help);
    }
    let command = args.take_word().ok_or("no command given")?;
    let task = match command.as_str() {
        "help" => Task::Help,
        "test" => Task::Test,
        "bench" => Task::Bench {
            names: args.take_words(),
        },
        "loom" => Task::Loom {
            preemptions: args.take_number("--preemptions", 3)?,
        },
        "fuzz" => Task::Fuzz {
            seconds: args.take_number("--seconds", 300)?,
            target: args.take_word(),
        },
        "model" => Task::Model {
            cases: args.take_number("--cases", 100_000)?,
        },
        "stress" => Task::Stress {
            millions: args.take_number("--millions", 20)?,
        },
        "rabbit" => Task::Rabbit(args.take_change()?),
        "deny" => Task::Deny,
        unknown => return Err(format!("unknown command `{unknown}`")),
    };
    args.end(&command)?;
    Ok(task)
}

/// The arguments that no rule has claimed yet.
struct Args(Vec<String>);

impl Args {
    fn take_flag(&mut self, flag: &str) -> bool {
        let found = self.0.iter().position(|arg| arg == flag);
        found.map(|at| self.0.remove(at)).is_some()
    }

    /// Takes `flag N`, or stands in `default` where the flag is absent.
    fn take_number(&mut self, flag: &str, default: u32) -> Result<NonZeroU32, String> {
        let Some(at) = self.0.iter().position(|arg| arg == flag) else {
            return Ok(NonZeroU32::new(default).expect("bug: a default is positive"));
        };
        self.0.remove(at);
        if at == self.0.len() {
            return Err(format!("`{flag}` needs a number"));
        }
        let value = self.0.remove(at);
        value
            .parse()
            .map_err(|_| format!("`{flag}` needs a positive whole number, not `{value}`"))
    }

    fn take_word(&mut self) -> Option<String> {
        let at = self.0.iter().position(|arg| !arg.starts_with('-'))?;
        Some(self.0.remove(at))
    }

    fn take_change(&mut self) -> Result<rabbit::Change, String> {
        let word = self.take_word().unwrap_or_default();
        rabbit::Change::from_word(&word)
            .ok_or_else(|| format!("`rabbit` takes `up` or `down`, not `{word}`"))
    }

    fn take_words(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.take_word()).collect()
    }

    fn end(self, command: &str) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some(left) => Err(format!("`{command}` does not take `{left}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Task, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    fn positive(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn commands_without_options_stand_alone() {
        assert_eq!(parsed("test"), Ok(Task::Test));
        assert_eq!(parsed("deny"), Ok(Task::Deny));
        assert_eq!(parsed("help"), Ok(Task::Help));
    }

    #[test]
    fn help_is_found_wherever_it_stands() {
        assert_eq!(parsed("--help"), Ok(Task::Help));
        assert_eq!(parsed("fuzz --help"), Ok(Task::Help));
        assert_eq!(parsed("-h nonsense"), Ok(Task::Help));
    }

    #[test]
    fn options_replace_defaults() {
        let loom = |n| Task::Loom {
            preemptions: positive(n),
        };
        assert_eq!(parsed("loom"), Ok(loom(3)));
        assert_eq!(parsed("loom --preemptions 5"), Ok(loom(5)));
    }

    #[test]
    fn a_fuzz_target_may_stand_on_either_side_of_its_option() {
        let expected = Task::Fuzz {
            seconds: positive(9),
            target: Some("pool_core".to_owned()),
        };
        assert_eq!(parsed("fuzz --seconds 9 pool_core").as_ref(), Ok(&expected));
        assert_eq!(parsed("fuzz pool_core --seconds 9").as_ref(), Ok(&expected));
    }

    #[test]
    fn benches_are_chosen_by_any_number_of_names() {
        let names = vec!["hot_path".to_owned(), "keyed".to_owned()];
        assert_eq!(parsed("bench hot_path keyed"), Ok(Task::Bench { names }));
        assert_eq!(parsed("bench"), Ok(Task::Bench { names: vec![] }));
    }

    #[test]
    fn a_rabbit_goes_up_or_down() {
        assert_eq!(parsed("rabbit up"), Ok(Task::Rabbit(rabbit::Change::Up)));
        assert_eq!(
            parsed("rabbit down"),
            Ok(Task::Rabbit(rabbit::Change::Down))
        );
    }

    #[test]
    fn what_makes_no_sense_is_named_in_the_error() {
        for (line, culprit) in [
            ("", "no command"),
            ("tset", "tset"),
            ("test --fast", "--fast"),
            ("fuzz one two", "two"),
            ("loom --preemptions", "--preemptions"),
            ("model --cases many", "many"),
            ("stress --millions 0", "`0`"),
            ("rabbit", "`up` or `down`"),
            ("rabbit hole", "hole"),
        ] {
            let problem = parsed(line).unwrap_err();
            assert!(problem.contains(culprit), "`{line}` gave: {problem}");
        }
    }
}
