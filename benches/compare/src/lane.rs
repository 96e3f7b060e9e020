//! A contender in a race, its type forgotten, with what became of it.

use std::fmt;
use std::time::Duration;

use crate::contender::Contender;
use crate::runtime::Arena;
use crate::slice::Slices;

/// How a contender is opened in an arena.
type Open = fn(&Arena, usize) -> Result<Box<dyn Slices>, Trouble>;

/// Everybody who may race.
#[derive(Default)]
pub struct Field(Vec<Entrant>);

#[derive(Clone, Copy)]
struct Entrant {
    name: &'static str,
    role: Role,
    open: Open,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Pool,
    /// Bare, but able to wait.
    WaitingFloor,
    /// Bare, and unable to wait: only where there is always a resource.
    SpinningFloor,
}

impl Field {
    pub fn add<C: Contender>(&mut self, name: &'static str, role: Role) {
        self.0.push(Entrant {
            name,
            role,
            open: crate::opened::open::<C>,
        });
    }

    pub fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|entrant| wanted(entrant.name));
    }

    /// The lanes of a race in which everyone finds a resource at once.
    pub fn everyone(&self, arena: &Arena, size: usize) -> Vec<Lane> {
        self.0
            .iter()
            .map(|entrant| Lane::open(*entrant, arena, size))
            .collect()
    }

    /// The lanes of a race in which one has to wait.
    pub fn who_can_wait(&self, arena: &Arena, size: usize) -> Vec<Lane> {
        let waiting = self
            .0
            .iter()
            .filter(|entrant| entrant.role != Role::SpinningFloor);
        waiting
            .map(|entrant| Lane::open(*entrant, arena, size))
            .collect()
    }
}

/// A contender with its pool open. Once in trouble, it is out of the race.
pub struct Lane {
    pub name: &'static str,
    entrant: Entrant,
    size: usize,
    state: Result<Box<dyn Slices>, Trouble>,
}

impl Lane {
    fn open(entrant: Entrant, arena: &Arena, size: usize) -> Self {
        Self {
            name: entrant.name,
            entrant,
            size,
            state: (entrant.open)(arena, size),
        }
    }

    /// Goes on with a new pool, unless this lane is out of the race. The old one is left as it is.
    pub fn reopen(&mut self, arena: &Arena) {
        if self.state.is_ok() {
            self.state = (self.entrant.open)(arena, self.size);
        }
    }

    /// Takes one slice, unless this lane is out of the race.
    pub fn run<T>(&mut self, slice: impl FnOnce(&dyn Slices) -> Result<T, Trouble>) -> Option<T> {
        let running = self.state.as_ref().ok()?;
        match slice(running.as_ref()) {
            Ok(measured) => Some(measured),
            Err(trouble) => {
                eprintln!("{}: {trouble}; it is out of this scenario", self.name);
                self.state = Err(trouble);
                None
            }
        }
    }

    pub fn trouble(&self) -> Option<&Trouble> {
        self.state.as_ref().err()
    }
}

/// Why a lane is out of the race.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It was not done within the bound.
    Hung(Duration),
    /// A task of it panicked.
    Failed(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hung(bound) => write!(f, "hung (no end after {bound:?})"),
            Self::Failed(reason) => write!(f, "failed ({reason})"),
        }
    }
}
