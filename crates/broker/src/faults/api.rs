//! Faults as a test writes them.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    faulty::Faulty,
    publish::Publish,
    script::{
        ALWAYS, Act, Admission, Filter, OnPublish, Order, Place, Predicate, Scripts, StepState,
    },
    tap::{Amount, Blow},
};

/// Writes fault scripts. [`Broker::faults`](crate::Broker::faults) gives it.
///
/// Each fault is a step, and each step begun here is a script of its own; [`Step::then`] writes the
/// next step of the same script, which begins when the one before has happened. A step holds from
/// the moment it is written. Some faults happen once unless [`Step::times`] says otherwise (a cut, a
/// close, a block), others from then on until [`clear`](Self::clear) (whatever is done to confirms,
/// messages, connects and logins); each method says which.
///
/// Scripts run side by side. Where two of them have a fault for the same message or connection, the
/// one written first has it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use wharf_broker::{Broker, Frames};
///
/// let broker = Broker::builder().user("app", "secret").start().await?;
/// // The first connection to send a hundred frames is cut behind the last of them, and every
/// // confirm afterwards comes late.
/// let cut = broker.faults().cut_after(Frames(100));
/// cut.then().delay_confirms(Duration::from_millis(50));
/// // Of the publisher's messages the poisonous are rejected.
/// broker
///     .faults()
///     .named("publisher")
///     .when(|publish| publish.routing_key() == "poison")
///     .nack();
/// // … and in the test, when it matters:
/// # if false {
/// cut.happened().await;
/// # }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Faults {
    faulty: Arc<Faulty>,
    /// The step behind which the next one is written; without, it begins a script.
    behind: Option<Place>,
    whom: Filter,
}

/// Writes faults of single messages. [`Faults::when`] gives it.
#[derive(Clone)]
pub struct Publishes {
    faults: Faults,
    predicate: Predicate,
}

/// A step of a script. Dropping it changes nothing: the step stays.
#[derive(Clone, Debug)]
pub struct Step {
    faulty: Arc<Faulty>,
    place: Place,
}

impl Faults {
    pub(crate) fn new(faulty: Arc<Faulty>) -> Self {
        Self {
            faulty,
            behind: None,
            whom: Filter::default(),
        }
    }

    /// Only connections of this user, from the moment they have logged in.
    #[must_use]
    pub fn of_user(mut self, user: impl Into<String>) -> Self {
        self.whom.user = Some(user.into());
        self
    }

    /// Only connections whose client properties have this `connection_name`, from the moment they
    /// have logged in.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.whom.name = Some(name.into());
        self
    }

    /// Only the `nth` connection that the broker accepts, counted from one since it started.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        self.whom.nth = Some(nth);
        self
    }

    /// Only messages of which this is true. It is called while the broker stands still, so it must
    /// not wait and must not use the broker.
    #[must_use]
    pub fn when(
        self,
        predicate: impl Fn(&Publish<'_>) -> bool + Send + Sync + 'static,
    ) -> Publishes {
        Publishes {
            faults: self,
            predicate: Arc::new(predicate),
        }
    }

    /// Every message.
    #[must_use]
    pub fn always(self) -> Publishes {
        self.when(|_| true)
    }

    /// Closes a connection's socket when so much has passed on it. Happens once, on the first
    /// connection that comes so far; each counts from where it is, or from its beginning if that is
    /// later. The broker learns of it as of any connection that is lost.
    ///
    /// Counted as received, the answers to the last frame are written before the cut, as far as they
    /// are due at once. Counted as sent, exactly so much is written.
    pub fn cut_after(self, amount: impl Into<Amount>) -> Step {
        self.step(Act::Strike(amount.into(), Some(Blow::Cut)), 1)
    }

    /// Leaves a connection half open when so much has passed on it: its socket stays, whatever the
    /// client sends vanishes, and nothing more comes from the broker. Happens once, counted like
    /// [`cut_after`](Self::cut_after). The broker finds out by heartbeats, if there are any.
    pub fn fall_silent_after(self, amount: impl Into<Amount>) -> Step {
        self.step(Act::Strike(amount.into(), Some(Blow::Silence)), 1)
    }

    /// Does nothing but wait until so much has passed on a connection, for the step behind it.
    /// Counted like [`cut_after`](Self::cut_after).
    pub fn after(self, amount: impl Into<Amount>) -> Step {
        self.step(Act::Strike(amount.into(), None), 1)
    }

    /// Does nothing but wait, for the step behind it.
    pub fn wait(self, time: Duration) -> Step {
        self.step(Act::Wait(time), 1)
    }

    /// Routes messages and confirms them so much later. From then on.
    pub fn delay_confirms(self, time: Duration) -> Step {
        self.always().delay_confirms(time)
    }

    /// Routes messages and never confirms them. From then on.
    pub fn swallow_confirms(self) -> Step {
        self.always().swallow_confirms()
    }

    /// Confirms messages in groups of so many of a channel, the last of each group first. From then
    /// on; a group that stays incomplete stays unconfirmed until [`clear`](Self::clear).
    ///
    /// # Panics
    ///
    /// If a group is of none.
    pub fn reorder_confirms(self, group: usize) -> Step {
        self.always().reorder_confirms(group)
    }

    /// Takes no message until [`unblock`](Self::unblock), as RabbitMQ does under an alarm: a
    /// connection that publishes is told (`connection.blocked` with this reason, if it can hear it)
    /// and not read any further. Happens once, for all connections whatever their filter.
    pub fn block(self, reason: impl Into<String>) -> Step {
        self.step(Act::Order(Order::Block(reason.into())), 1)
    }

    /// Ends what [`block`](Self::block) began. Happens once.
    pub fn unblock(self) -> Step {
        self.step(Act::Order(Order::Unblock), 1)
    }

    /// Closes all channels that are open at that moment, with this code and text. Happens once.
    pub fn close_channels(self, code: u16, text: impl Into<String>) -> Step {
        let text = text.into();
        self.step(Act::Order(Order::CloseChannels { code, text }), 1)
    }

    /// Closes all connections there are at that moment, with this code and text. Happens once.
    pub fn close_connections(self, code: u16, text: impl Into<String>) -> Step {
        let text = text.into();
        self.step(Act::Order(Order::CloseConnections { code, text }), 1)
    }

    /// Accepts connections and resets them at once, as a balancer without servers does. From then
    /// on. Of the filters only [`nth`](Self::nth) can know anything yet.
    pub fn refuse_connects(self) -> Step {
        self.step(Act::Admit(Admission::Refused), ALWAYS)
    }

    /// Accepts connections and lets so much time pass before it reads their first byte. From then
    /// on. Of the filters only [`nth`](Self::nth) can know anything yet.
    pub fn stall_connects(self, time: Duration) -> Step {
        self.step(Act::Admit(Admission::Stalled(time)), ALWAYS)
    }

    /// Answers `connection.open` with `connection.close` and this code and text. From then on.
    pub fn refuse_logins(self, code: u16, text: impl Into<String>) -> Step {
        let text = text.into();
        self.step(Act::RefuseOpen { code, text }, ALWAYS)
    }

    /// Ends all scripts, this and every other one. Confirms that were delayed or waited for their
    /// group go out at once; those that were swallowed stay so.
    pub fn clear(&self) {
        self.faulty.change(Scripts::clear);
    }

    fn step(self, act: Act, times: u64) -> Step {
        let state = StepState::new(self.whom, act, times);
        let place = self
            .faulty
            .change(|scripts| scripts.add(self.behind.as_ref(), state));
        Step {
            faulty: self.faulty,
            place,
        }
    }
}

impl Publishes {
    /// Does nothing but count, for the step behind it. Happens once.
    pub fn pass(self) -> Step {
        self.step(OnPublish::Pass, 1)
    }

    /// Does not route them and answers `basic.nack`, in confirm mode. From then on.
    pub fn nack(self) -> Step {
        self.step(OnPublish::Nack, ALWAYS)
    }

    /// Does not route them and gives them back (`basic.return`, 312 `NO_ROUTE`, then the confirm),
    /// mandatory or not. From then on.
    pub fn give_back(self) -> Step {
        self.step(OnPublish::Return, ALWAYS)
    }

    /// Routes them and never confirms them. From then on.
    pub fn swallow_confirms(self) -> Step {
        self.step(OnPublish::Swallow, ALWAYS)
    }

    /// Routes them and confirms them so much later. From then on.
    pub fn delay_confirms(self, time: Duration) -> Step {
        self.step(OnPublish::Delay(time), ALWAYS)
    }

    /// As [`Faults::reorder_confirms`], of these messages.
    ///
    /// # Panics
    ///
    /// If a group is of none.
    pub fn reorder_confirms(self, group: usize) -> Step {
        assert!(group > 0, "a group of confirms has at least one");
        self.step(OnPublish::Reorder(group), ALWAYS)
    }

    /// Routes them twice: what a publisher does that sends again what it has no word of. From then
    /// on. Queues hold both copies and consumers are delivered both.
    pub fn duplicate(self) -> Step {
        self.step(OnPublish::Duplicate, ALWAYS)
    }

    /// Does not route the message and closes its channel with this code and text. Happens once.
    pub fn close_channel(self, code: u16, text: impl Into<String>) -> Step {
        let text = text.into();
        self.step(OnPublish::CloseChannel { code, text }, 1)
    }

    /// Does not route the message and closes its connection with this code and text. Happens once.
    pub fn close_connection(self, code: u16, text: impl Into<String>) -> Step {
        let text = text.into();
        self.step(OnPublish::CloseConnection { code, text }, 1)
    }

    fn step(self, act: OnPublish, times: u64) -> Step {
        self.faults.step(Act::Publish(self.predicate, act), times)
    }
}

impl Step {
    /// Lets it happen so often: to so many connections or messages. Then the script goes on.
    pub fn times(self, times: u64) -> Self {
        self.faulty
            .change(|scripts| scripts.set_times(&self.place, times));
        self
    }

    /// Writes the next step of the same script. It begins when this one has happened as often as it
    /// is to; filters are chosen anew.
    ///
    /// # Panics
    ///
    /// If this step has no end. Say how many [`times`](Self::times) it is to happen.
    #[must_use]
    pub fn then(&self) -> Faults {
        let times = self.faulty.scripts.lock().get(&self.place).1.times;
        assert!(
            times < ALWAYS,
            "nothing can come behind a step without an end; say how many times it is to happen",
        );
        Faults {
            faulty: Arc::clone(&self.faulty),
            behind: Some(self.place.clone()),
            whom: Filter::default(),
        }
    }

    /// How often it has happened.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.faulty.scripts.lock().get(&self.place).1.done
    }

    /// Waits until it has happened as often as it is to, or once if there is no end to it.
    ///
    /// # Panics
    ///
    /// If the script is cleared before: it will not happen, and a test that waits for it hangs.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn happened(&self) {
        loop {
            let progress = self.faulty.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.has_happened() {
                return;
            }
            progress.await;
        }
    }

    #[cfg(test)]
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    fn has_happened(&self) -> bool {
        let scripts = self.faulty.scripts.lock();
        let (script, step) = scripts.get(&self.place);
        let happened = step.has_happened();
        assert!(
            happened || !script.cleared,
            "the script was cleared before this step happened",
        );
        happened
    }
}

impl fmt::Debug for Publishes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publishes")
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}
