//! Scripts: steps one after the other, each with what it waits for and what it does.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    publish::Publish,
    tap::{Amount, Blow, Direction, Limit, Traffic},
    withheld::Withheld,
};
use crate::engine::{ConnectionId, Engine, Peer};

pub(super) type Predicate = Arc<dyn Fn(&Publish<'_>) -> bool + Send + Sync>;

#[derive(Debug, Default)]
pub(super) struct Scripts {
    /// Those with a step to come, in the order in which they were written.
    pub(super) live: BTreeMap<u64, Script>,
    /// Those without, as long as somebody may ask what happened or write on.
    pub(super) ended: BTreeMap<u64, Script>,
    /// How many were written.
    written: u64,
    pub(super) withheld: Withheld,
}

#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) steps: Vec<StepState>,
    pub(super) cleared: bool,
    /// Shared with its places.
    kept: Arc<()>,
}

#[derive(Debug)]
pub(super) struct StepState {
    whom: Filter,
    pub(super) act: Act,
    pub(super) times: u64,
    pub(super) done: u64,
    /// When it became the script's current step.
    begun: Option<Instant>,
    /// What had passed on a connection when this step first looked at it.
    before: HashMap<ConnectionId, Traffic>,
}

/// Which connections a step is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) user: Option<String>,
    pub(super) name: Option<String>,
    pub(super) nth: Option<u64>,
}

#[derive(Clone)]
pub(super) enum Act {
    /// A connection is struck when so much has passed; without a blow the script just goes on.
    Strike(Amount, Option<Blow>),
    Admit(Admission),
    RefuseOpen {
        code: u16,
        text: String,
    },
    Publish(Predicate, OnPublish),
    Order(Order),
    Wait(Duration),
}

/// What becomes of a new connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Served,
    Refused,
    Stalled(Duration),
}

/// What becomes of a message.
#[derive(Clone, Debug)]
pub(super) enum OnPublish {
    Pass,
    Duplicate,
    Nack,
    Return,
    Swallow,
    Delay(Duration),
    Reorder(usize),
    CloseChannel { code: u16, text: String },
    CloseConnection { code: u16, text: String },
}

/// What is done to the engine at once.
#[derive(Clone, Debug)]
pub(super) enum Order {
    Block(String),
    Unblock,
    CloseChannels { code: u16, text: String },
    CloseConnections { code: u16, text: String },
}

/// How often a step happens if nobody says.
pub(super) const ALWAYS: u64 = u64::MAX;

/// A step's place: its script and its number there. The script is kept as long as somebody has it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    script: u64,
    step: usize,
    _kept: Arc<()>,
}

impl Scripts {
    pub(super) fn get(&self, place: &Place) -> (&Script, &StepState) {
        let script = self.live.get(&place.script);
        let script = script.or_else(|| self.ended.get(&place.script));
        let script = script.expect("bug: a script is kept as long as its places");
        (script, &script.steps[place.step])
    }

    /// Lets a step happen so often. It may have ended before, and its script with it.
    pub(super) fn set_times(&mut self, place: &Place, times: u64) {
        self.revive(place).steps[place.step].times = times;
    }

    /// Adds a step to the script of another, or to one of its own.
    pub(super) fn add(&mut self, behind: Option<&Place>, step: StepState) -> Place {
        let number = behind.map_or(self.written, |place| place.script);
        let script = match behind {
            Some(place) => self.revive(place),
            None => {
                self.written += 1;
                self.live.entry(number).or_default()
            }
        };
        script.steps.push(step);
        Place {
            script: number,
            step: script.steps.len() - 1,
            _kept: Arc::clone(&script.kept),
        }
    }

    fn revive(&mut self, place: &Place) -> &mut Script {
        if let Some(script) = self.ended.remove(&place.script) {
            self.live.insert(place.script, script);
        }
        let script = self.live.get_mut(&place.script);
        script.expect("bug: a script is kept as long as its places")
    }

    /// Puts the scripts aside that have ended, and drops those that nobody asks after.
    pub(super) fn sort_out(&mut self) {
        self.live.values_mut().for_each(Script::forget_traffic);
        let all = self.live.iter();
        let ended: Vec<u64> = all
            .filter(|(_, script)| script.current().is_none())
            .map(|(number, _)| *number)
            .collect();
        if ended.is_empty() {
            return;
        }
        for number in ended {
            self.ended.extend(self.live.remove_entry(&number));
        }
        self.ended.retain(|_, script| script.is_asked_after());
    }

    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.withheld.forget(connection);
        for step in self.live.values_mut().flat_map(|it| &mut it.steps) {
            step.before.remove(&connection);
        }
    }

    pub(super) fn clear(&mut self) {
        for script in self.live.values_mut() {
            script.cleared = true;
        }
        self.withheld.let_go(now());
    }

    pub(super) fn current(&self) -> impl Iterator<Item = &StepState> {
        self.live.values().filter_map(Script::current)
    }

    fn current_mut(&mut self) -> impl Iterator<Item = &mut StepState> {
        self.live.values_mut().filter_map(Script::current_mut)
    }

    /// Whether any of them is an order.
    pub(super) fn begin_current(&mut self, now: Instant) -> bool {
        let mut orders = false;
        for step in self.current_mut() {
            step.begun.get_or_insert(now);
            orders |= matches!(step.act, Act::Order(_));
        }
        orders
    }

    pub(super) fn once<R>(
        &mut self,
        peer: &Peer,
        mut choose: impl FnMut(&Act) -> Option<R>,
    ) -> Option<R> {
        self.current_mut()
            .filter(|step| step.whom.matches(peer))
            .find_map(|step| {
                let chosen = choose(&step.act)?;
                step.done += 1;
                Some(chosen)
            })
    }

    pub(super) fn strike(
        &mut self,
        peer: &Peer,
        of: Direction,
        reached: impl Fn(Limit, Traffic) -> Option<usize>,
        traffic: Traffic,
    ) -> Option<(usize, Option<Blow>)> {
        self.current_mut().find_map(|step| {
            let Act::Strike(amount, blow) = step.act else {
                return None;
            };
            if amount.direction != of {
                return None;
            }
            let before = *step.before.entry(peer.connection).or_insert(traffic);
            if !step.whom.matches(peer) {
                return None;
            }
            let part = reached(amount.limit, before)?;
            step.done += 1;
            Some((part, blow))
        })
    }

    pub(super) fn take_orders(&mut self) -> Vec<(Filter, Order)> {
        let mut orders = Vec::new();
        for step in self.current_mut() {
            if let Act::Order(order) = &step.act {
                orders.push((step.whom.clone(), order.clone()));
                step.done += 1;
            }
        }
        orders
    }

    pub(super) fn next_wait(&self) -> Option<Instant> {
        self.current().filter_map(StepState::waits_until).min()
    }

    pub(super) fn end_waits(&mut self, now: Instant) -> bool {
        let mut ended = false;
        for step in self.current_mut() {
            if step.waits_until().is_some_and(|end| end <= now) {
                step.done += 1;
                step.begun = None;
                ended = true;
            }
        }
        ended
    }
}

impl Script {
    fn current(&self) -> Option<&StepState> {
        if self.cleared {
            return None;
        }
        self.steps.iter().find(|step| !step.is_over())
    }

    fn current_mut(&mut self) -> Option<&mut StepState> {
        if self.cleared {
            return None;
        }
        self.steps.iter_mut().find(|step| !step.is_over())
    }

    /// What had passed on connections is of no use to a step that is over.
    fn forget_traffic(&mut self) {
        for step in &mut self.steps {
            if step.is_over() && !step.before.is_empty() {
                step.before = HashMap::new();
            }
        }
    }

    fn is_asked_after(&self) -> bool {
        Arc::strong_count(&self.kept) > 1
    }
}

impl StepState {
    pub(super) fn new(whom: Filter, act: Act, times: u64) -> Self {
        Self {
            whom,
            act,
            times,
            done: 0,
            begun: None,
            before: HashMap::new(),
        }
    }

    /// Connections of which it is known what had passed.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.before.len()
    }

    pub(super) fn is_over(&self) -> bool {
        self.done >= self.times
    }

    /// As often as it was to happen, or once if there is no end to it.
    pub(super) fn has_happened(&self) -> bool {
        self.is_over() || (self.times == ALWAYS && self.done > 0)
    }

    fn waits_until(&self) -> Option<Instant> {
        match self.act {
            Act::Wait(time) => self.begun?.checked_add(time),
            _ => None,
        }
    }
}

impl Filter {
    fn matches(&self, peer: &Peer) -> bool {
        let is = |wanted: &Option<String>, found: &Option<Arc<str>>| {
            wanted.is_none() || wanted.as_deref() == found.as_deref()
        };
        is(&self.user, &peer.user)
            && is(&self.name, &peer.name)
            && self.nth.is_none_or(|nth| nth == peer.connection.nth())
    }
}

impl Order {
    pub(super) fn carry_out(&self, whom: &Filter, engine: &mut Engine, now: Instant) {
        match self {
            Self::Block(reason) => engine.block(reason),
            Self::Unblock => engine.unblock(now),
            Self::CloseChannels { code, text } => {
                for connection in chosen(whom, engine) {
                    for channel in engine.channels(connection) {
                        engine.close_channel(channel, *code, text, now);
                    }
                }
            }
            Self::CloseConnections { code, text } => {
                for connection in chosen(whom, engine) {
                    engine.close_connection(connection, *code, text, now);
                }
            }
        }
    }
}

fn chosen(whom: &Filter, engine: &Engine) -> Vec<ConnectionId> {
    let mut connections = engine.connections();
    connections.retain(|id| engine.peer(*id).is_some_and(|peer| whom.matches(&peer)));
    connections
}

/// The clock that the timers of the runtime go by, so that a paused one is paused here.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strike(amount, blow) => {
                f.debug_tuple("Strike").field(amount).field(blow).finish()
            }
            Self::Admit(admission) => f.debug_tuple("Admit").field(admission).finish(),
            Self::RefuseOpen { code, text } => {
                f.debug_tuple("RefuseOpen").field(code).field(text).finish()
            }
            Self::Publish(_, act) => f.debug_tuple("Publish").field(act).finish(),
            Self::Order(order) => f.debug_tuple("Order").field(order).finish(),
            Self::Wait(time) => f.debug_tuple("Wait").field(time).finish(),
        }
    }
}
