//! Faults inside the engine.

use std::{sync::Arc, time::Instant};

use super::{
    faulty::Faulty,
    publish::Publish,
    script::{Act, OnPublish},
};
use crate::engine::{Fate, Interference, Message, Peer, Release};

impl Interference for Arc<Faulty> {
    fn open(&mut self, peer: &Peer, _: Instant) -> Option<(u16, String)> {
        self.once(peer, |act| match act {
            Act::RefuseOpen { code, text } => Some((*code, text.clone())),
            _ => None,
        })
    }

    fn publish(&mut self, peer: &Peer, release: Release, message: &Message, now: Instant) -> Fate {
        let publish = Publish {
            peer,
            channel: release.channel,
            message,
        };
        let chosen = self.once(peer, |act| match act {
            Act::Publish(predicate, act) if act.applies(release.tag) && predicate(&publish) => {
                Some(act.clone())
            }
            _ => None,
        });
        let Some(act) = chosen else {
            return Fate::Routed;
        };
        self.fate(act, release, now)
    }

    fn next_deadline(&self) -> Option<Instant> {
        if !self.is_armed() {
            return None;
        }
        let scripts = self.scripts.lock();
        let next = [scripts.withheld.next_deadline(), scripts.next_wait()];
        next.into_iter().flatten().min()
    }

    fn due(&mut self, now: Instant, into: &mut Vec<Release>) {
        if !self.is_armed() {
            return;
        }
        self.pass_time(now);
        self.release(now, into);
    }
}

impl Faulty {
    fn fate(&self, act: OnPublish, release: Release, now: Instant) -> Fate {
        match act {
            OnPublish::Pass => Fate::Routed,
            OnPublish::Duplicate => Fate::RoutedTwice,
            OnPublish::Nack => Fate::Nacked,
            OnPublish::Return => Fate::Returned,
            OnPublish::Swallow => Fate::Withheld,
            OnPublish::Delay(time) => {
                self.change(|scripts| scripts.withheld.delay(release, time, now));
                Fate::Withheld
            }
            OnPublish::Reorder(count) => {
                self.change(|scripts| scripts.withheld.gather(release, count, now));
                Fate::Withheld
            }
            OnPublish::CloseChannel { code, text } => Fate::ChannelClosed { code, text },
            OnPublish::CloseConnection { code, text } => Fate::ConnectionClosed { code, text },
        }
    }
}

impl OnPublish {
    /// What is about a confirm passes by a message that asks for none.
    fn applies(&self, tag: u64) -> bool {
        let confirms = matches!(
            self,
            Self::Nack | Self::Swallow | Self::Delay(_) | Self::Reorder(_)
        );
        !confirms || tag > 0
    }
}
