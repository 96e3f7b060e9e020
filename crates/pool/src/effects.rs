//! Giving the core commands, and carrying out what it decides.

use std::task::Waker;

use crate::{
    caught::caught,
    core::{Core, Effect, Effects, Shelf},
    error::Cause,
    manager::Manager,
    observer::Event,
    shared::Shared,
    tasks,
};

impl<M: Manager> Shared<M> {
    /// Gives the core a command and carries out what it decided.
    #[inline]
    pub(crate) fn command<T>(
        &self,
        command: impl FnOnce(&mut Core<Cause<M::Error>>, &Shelf, &mut Effects<Cause<M::Error>>) -> T,
    ) -> T {
        let mut effects = Effects::new();
        let answer = self.depot.command_into(&mut effects, command);
        let (wake, timed) = effects.take_usual();
        if let Some(waker) = wake {
            self.wake(waker);
        }
        if let Some((what, nanos)) = timed {
            self.timings.record(what, nanos);
        }
        if !effects.is_empty() {
            self.carry_out_rest(&mut effects);
        }
        answer
    }

    #[inline]
    fn wake(&self, waker: Waker) {
        if let Err(message) = caught(|| waker.wake()) {
            self.emit(&Event::Panicked {
                method: "wake",
                message: &message,
            });
        }
    }

    #[cold]
    fn carry_out_rest(&self, effects: &mut Effects<Cause<M::Error>>) {
        effects.carry_out(|effect| self.carry_out(effect));
    }

    pub(crate) fn carry_out(&self, effect: Effect<Cause<M::Error>>) {
        match effect {
            Effect::Wake(waker) => self.wake(waker),
            Effect::Create(held, errand) => self.spawn(tasks::create(self.this(), held, errand)),
            Effect::Destroy(held, why) => {
                self.emit(&Event::Retired { why });
                self.spawn(tasks::destroy(self.this(), held));
            }
            Effect::Rearm => self.alarm.notify_one(),
            Effect::Drained => {
                if let Some(host) = &self.host {
                    host.drained();
                }
                self.drained.send_replace(true);
            }
            Effect::Report(report) => {
                if let Some(host) = &self.host {
                    host.report(report);
                }
            }
            Effect::Spare => {
                if let Some(host) = &self.host {
                    host.spare();
                }
            }
            Effect::WentDown {
                cause,
                attempt,
                retry_in,
            } => {
                self.emit(&Event::Down {
                    cause: &cause,
                    attempt,
                    retry_in,
                });
                discard(cause);
            }
            Effect::WentUp { after } => self.emit(&Event::Up { after }),
            Effect::Shed { waited } => self.emit(&Event::Shed { waited }),
            Effect::Timed(what, nanos) => self.timings.record(what, nanos),
            Effect::Drop(cause) => discard(cause),
            Effect::DropWaker(waker) => discard(waker),
        }
    }
}

/// Drops something of the user's.
fn discard<T>(value: T) {
    // A destructor that panics has nobody to tell.
    let _ = caught(|| drop(value));
}
