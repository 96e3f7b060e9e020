//! A contender in a race, with what became of it.

use std::{error, fmt, time::Duration};

type Open<'a, E> = Box<dyn Fn() -> Result<E, Trouble> + 'a>;

/// A contender that is ready to be measured. Once in trouble, it is out of the race.
pub struct Lane<'a, E> {
    /// What it is called in the tables.
    pub name: &'static str,
    open: Open<'a, E>,
    state: Result<E, Trouble>,
}

impl<'a, E> Lane<'a, E> {
    /// Opens the contender: a pool of it, or a connection.
    pub fn new(name: &'static str, open: impl Fn() -> Result<E, Trouble> + 'a) -> Self {
        Self {
            name,
            state: open(),
            open: Box::new(open),
        }
    }

    /// Goes on with a new one, unless this lane is out of the race. The old one is dropped first.
    pub fn reopen(&mut self) {
        if self.state.is_ok() {
            self.state = Err(Trouble::Failed("a panic".into()));
            self.state = (self.open)();
        }
    }

    /// Takes one slice, unless this lane is out of the race.
    pub fn run<T>(&mut self, slice: impl FnOnce(&E) -> Result<T, Trouble>) -> Option<T> {
        match slice(self.state.as_ref().ok()?) {
            Ok(measured) => Some(measured),
            Err(trouble) => {
                eprintln!("{}: {trouble}; it is out of this scenario", self.name);
                self.state = Err(trouble);
                None
            }
        }
    }

    /// Why it is out of the race, if it is.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.state.as_ref().err()
    }

    /// What is put beside its figures.
    pub fn remark(&self) -> String {
        self.trouble().map(ToString::to_string).unwrap_or_default()
    }
}

impl<E> fmt::Debug for Lane<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("name", &self.name)
            .field("trouble", &self.trouble())
            .finish_non_exhaustive()
    }
}

/// Why a lane is out of the race.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It was not done within the bound.
    Hung(Duration),
    /// A task of it panicked, or it did not do what it was there for.
    Failed(String),
}

impl Trouble {
    /// Something of the contender's went wrong.
    pub fn of(error: impl error::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hung(bound) => write!(f, "hung (no end after {bound:?})"),
            Self::Failed(reason) => write!(f, "failed ({reason})"),
        }
    }
}
