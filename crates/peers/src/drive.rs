//! The task that keeps the connection to another peer, and sends.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use wharf::Backoff;
use wharf_amqp::{Cluster, State};

use crate::{
    error::{Cause, PeerState},
    remote::{Moved, Remote},
    route::{Answers, Routes, Speaker, Talk},
    wire::ToSender,
};

/// Connects and sends, until the routes are closed.
pub(crate) async fn drive(remote: Arc<Remote>, routes: Routes, mut stopped: watch::Receiver<()>) {
    let work = async {
        let mut pace = Pace::default();
        while let Ok(mut route) = routes.get(&remote.name).await {
            let (cluster, moves) = (route.cluster.clone(), route.moves);
            let talk = route.talk.take().expect("bug: a route is served once");
            // There the answers are read and what is sent is written, and nothing has to be handed over.
            let channel = talk.speaker.channel();
            let serve = serve(Arc::clone(&remote), cluster, moves, talk);
            let served = channel.run(serve).await;
            let (cause, is_of_use) = served.unwrap_or((Cause::Lost, false));
            let pause = pace.pause(&cause, is_of_use, remote.config.reconnect);
            remote.lost(cause);
            route.discard();
            tokio::select! {
                biased;
                () = remote.moved.notified() => {}
                () = sleep(pause) => {}
            }
        }
    };
    tokio::select! {
        biased;
        _ = stopped.changed() => {}
        () = work => {}
        () = remote.expire() => {}
    }
}

/// How soon after a connection the next one is tried. The pool paces attempts that fail; this paces
/// those that succeed and come to nothing.
#[derive(Default)]
struct Pace {
    /// Connections in a row on which nothing was answered.
    idle: u32,
}

impl Pace {
    fn pause(&mut self, cause: &Cause, is_of_use: bool, backoff: Backoff) -> Duration {
        self.idle = if is_of_use { 0 } else { self.idle + 1 };
        match cause {
            Cause::Moved => Duration::ZERO,
            // Who comes back at once is replaced at once, and so on without end.
            Cause::Replaced => backoff.max.mul_f64(0.5 + fastrand::f64() / 2.0),
            _ if is_of_use => Duration::ZERO,
            _ => {
                let doublings = (self.idle - 1).min(16);
                backoff.min.saturating_mul(1 << doublings).min(backoff.max)
            }
        }
    }
}

/// Sends on this connection until it is of no use any more. Says whether it ever was.
async fn serve(remote: Arc<Remote>, cluster: Cluster, moves: u64, talk: Talk) -> (Cause, bool) {
    let Talk {
        speaker,
        mut answers,
        welcome,
    } = talk;
    let welcomed = remote.with(|packets, settled| packets.welcome(&welcome, settled));
    if let Err(violation) = welcomed {
        return (Cause::Protocol(violation.to_string()), false);
    }
    remote.set_state(PeerState::Connected);
    let mut is_of_use = false;
    let cause = tokio::select! {
        biased;
        () = remote.moved.notified() => Cause::Moved,
        cause = hear(&remote, &mut answers, &mut is_of_use) => cause,
        cause = speak(&remote, moves, &speaker) => cause,
        () = lost(&cluster) => Cause::Lost,
    };
    (cause, is_of_use)
}

/// Sends what there is to send, until the peer moves.
async fn speak(remote: &Remote, moves: u64, speaker: &Speaker) -> Cause {
    loop {
        match remote.pack(moves) {
            Err(Moved) => return Cause::Moved,
            Ok(None) => remote.wake.notified().await,
            Ok(Some(packed)) => {
                if speaker.say(&packed.body).await.is_err() {
                    return Cause::Lost;
                }
            }
        }
    }
}

/// Takes note of what the other side says.
async fn hear(remote: &Remote, answers: &mut Answers, is_of_use: &mut bool) -> Cause {
    loop {
        match answers.next().await {
            Ok(ToSender::Receipt(receipt)) => {
                let noted = remote.with(|packets, settled| packets.receipt(&receipt, settled));
                if let Err(violation) = noted {
                    return Cause::Protocol(violation.to_string());
                }
                *is_of_use = true;
                remote.wake.notify_one();
            }
            Ok(ToSender::Replaced(_)) => return Cause::Replaced,
            Ok(ToSender::Welcome(_)) => {
                return Cause::Protocol("it said welcome twice".to_owned());
            }
            Err(cause) => return cause,
        }
    }
}

/// Until the connection is gone.
async fn lost(cluster: &Cluster) {
    let mut state = cluster.watch();
    let is_gone = |state: &State| matches!(state, State::Down { .. } | State::Closed { .. });
    // The sender is the cluster's, so that it is there.
    let _ = state.wait_for(is_gone).await;
}
