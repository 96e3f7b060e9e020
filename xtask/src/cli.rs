//! The command line: what may be asked for, and the page that says so.

use std::num::NonZeroU32;

use crate::rabbit;

pub(crate) const USAGE: &str = "\
usage: cargo xtask <command>

  test                      every check that must hold before a change goes in
  bench [name…]             criterion benchmarks, then the comparison with other pools;
                            names select benchmarks and scenarios
  bench amqp [--rounds N] [--quick] [name…]
                            the AMQP adapter beside lapin and deadpool-lapin, on a RabbitMQ
                            node of its own; names select scenarios
  bench broker [--rounds N] [--quick] [name…]
                            the embedded broker beside RabbitMQ; names select scenarios
  bench outbox [--rounds N] [--quick] [name…]
                            the outbox beside a bare channel, its journal beside bare redb
  bench lanes [--quick] [name…]
                            batches by key beside a task for each key and batch-aint-one
  bench peers [--rounds N] [--quick] [name…]
                            packets between processes beside zeromq and a bare TCP echo
  rabbit up|down            a private RabbitMQ node that stays until it is taken down
  deny                      licences, bans, sources and advisories (needs the network)

Longer campaigns of single parts of `test`:

  loom [--preemptions N]    every interleaving with up to N preemptions (default 3)
  model [--cases N]         N random histories against the reference model (default 100000)
  stress [--millions N]     N million operations on real threads (default 20)
  kill [--times N]          N times SIGKILL for a process with a durable outbox (default 1000)
  cuts [--times N]          N times a connection between peers is cut at random (default 10000)
  fuzz [--seconds N] [target]
                            N seconds of fuzzing per target (default 300), needs nightly
  soak [--minutes M] [--seed S]
                            M minutes of publishing and consuming while everything breaks
                            (default 10), on a RabbitMQ node of its own

  --help                    this page
";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Help,
    Test,
    Bench {
        names: Vec<String>,
    },
    BenchOf {
        what: Subject,
        /// None: as many as a full run has.
        rounds: Option<NonZeroU32>,
        quick: bool,
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
    Kill {
        times: NonZeroU32,
    },
    Cuts {
        times: NonZeroU32,
    },
    Soak {
        minutes: NonZeroU32,
        /// None: another each time.
        seed: Option<NonZeroU32>,
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
            Self::BenchOf { what, .. } => what.task(),
            Self::Loom { .. } => "loom",
            Self::Fuzz { .. } => "fuzz",
            Self::Model { .. } => "model",
            Self::Stress { .. } => "stress",
            Self::Kill { .. } => "kill",
            Self::Cuts { .. } => "cuts",
            Self::Soak { .. } => "soak",
            Self::Rabbit(_) => "rabbit",
            Self::Deny => "deny",
        }
    }
}

/// What has a comparison of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Amqp,
    Broker,
    Outbox,
    Lanes,
    Peers,
}

impl Subject {
    fn from_word(word: &str) -> Option<Self> {
        match word {
            "amqp" => Some(Self::Amqp),
            "broker" => Some(Self::Broker),
            "outbox" => Some(Self::Outbox),
            "lanes" => Some(Self::Lanes),
            "peers" => Some(Self::Peers),
            _ => None,
        }
    }

    fn task(self) -> &'static str {
        match self {
            Self::Amqp => "bench amqp",
            Self::Broker => "bench broker",
            Self::Outbox => "bench outbox",
            Self::Lanes => "bench lanes",
            Self::Peers => "bench peers",
        }
    }

    /// The workspace below `benches` that measures it.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Amqp | Self::Broker => "amqp",
            Self::Outbox => "outbox",
            Self::Lanes => "lanes",
            Self::Peers => "peers",
        }
    }

    /// The binary that measures it.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Amqp => "wharf-amqp-compare",
            Self::Broker => "broker",
            Self::Outbox => "wharf-outbox-compare",
            Self::Lanes => "wharf-lanes-compare",
            Self::Peers => "wharf-peers-compare",
        }
    }

    /// Whether it is measured with RabbitMQ beside it.
    pub(crate) fn needs_rabbitmq(self) -> bool {
        matches!(self, Self::Amqp | Self::Broker)
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
        "bench" => args.take_bench()?,
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
        "kill" => Task::Kill {
            times: args.take_number("--times", 1000)?,
        },
        "cuts" => Task::Cuts {
            times: args.take_number("--times", 10_000)?,
        },
        "soak" => Task::Soak {
            minutes: args.take_number("--minutes", 10)?,
            seed: args.take_option("--seed")?,
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

    /// Without a subject these are the pool's.
    fn take_bench(&mut self) -> Result<Task, String> {
        // Numbers go first: a word may stand behind them.
        let rounds = self.take_option("--rounds")?;
        let mut names = self.take_words();
        let Some(what) = names.first().and_then(|name| Subject::from_word(name)) else {
            return match rounds {
                None => Ok(Task::Bench { names }),
                Some(_) => Err("`--rounds` is not for the pool's".to_owned()),
            };
        };
        names.remove(0);
        Ok(Task::BenchOf {
            what,
            rounds,
            quick: self.take_flag("--quick"),
            names,
        })
    }

    /// Takes `flag N`, or stands in `default` where the flag is absent.
    fn take_number(&mut self, flag: &str, default: u32) -> Result<NonZeroU32, String> {
        let default = NonZeroU32::new(default).expect("bug: a default is positive");
        Ok(self.take_option(flag)?.unwrap_or(default))
    }

    /// Takes `flag N`, if it is there.
    fn take_option(&mut self, flag: &str) -> Result<Option<NonZeroU32>, String> {
        let Some(at) = self.0.iter().position(|arg| arg == flag) else {
            return Ok(None);
        };
        self.0.remove(at);
        if at == self.0.len() {
            return Err(format!("`{flag}` needs a number"));
        }
        let value = self.0.remove(at);
        let number = value.parse().map(Some);
        number.map_err(|_| format!("`{flag}` needs a positive whole number, not `{value}`"))
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
    fn campaigns_have_a_number_of_times() {
        let cuts = |n| Task::Cuts { times: positive(n) };
        assert_eq!(parsed("cuts"), Ok(cuts(10_000)));
        assert_eq!(parsed("cuts --times 7"), Ok(cuts(7)));
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
    fn each_part_has_a_bench_of_its_own() {
        let of = |what, rounds: Option<u32>, quick, names: &[&str]| {
            Ok(Task::BenchOf {
                what,
                rounds: rounds.map(positive),
                quick,
                names: names.iter().map(ToString::to_string).collect(),
            })
        };
        let subjects = [
            Subject::Amqp,
            Subject::Broker,
            Subject::Outbox,
            Subject::Lanes,
            Subject::Peers,
        ];
        for subject in subjects {
            assert_eq!(parsed(subject.task()), of(subject, None, false, &[]));
        }
        assert_eq!(
            parsed("bench broker --quick"),
            of(Subject::Broker, None, true, &[])
        );
        assert_eq!(
            parsed("bench amqp --rounds 7 consume"),
            of(Subject::Amqp, Some(7), false, &["consume"])
        );
        assert!(parsed("bench queue --rounds 7").is_err());
        assert!(parsed("bench --quick").is_err());
    }

    #[test]
    fn a_soak_has_a_length_and_may_have_a_seed() {
        let soak = |minutes, seed: Option<u32>| {
            Ok(Task::Soak {
                minutes: positive(minutes),
                seed: seed.map(positive),
            })
        };
        assert_eq!(parsed("soak"), soak(10, None));
        assert_eq!(parsed("soak --minutes 2 --seed 7"), soak(2, Some(7)));
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
