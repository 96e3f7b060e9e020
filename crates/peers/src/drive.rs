//! The task that keeps the connection to another peer, and sends.

use std::sync::Arc;

use tokio::sync::watch;
use wharf_amqp::{Cluster, State};

use crate::{
    error::{Cause, PeerState},
    remote::{ROOM, Remote},
    route::{Answers, Routes, Speaker, Talk},
    wire::ToSender,
};

/// Connects and sends, until the routes are closed.
pub(crate) async fn drive(remote: Arc<Remote>, routes: Routes, mut stopped: watch::Receiver<()>) {
    let work = async {
        while let Ok(mut route) = routes.get(&remote.name).await {
            let cluster = route.cluster.clone();
            let talk = route.talk.take().expect("bug: a route is served once");
            // There the answers are read and what is sent is written, and nothing has to be handed over.
            let channel = talk.speaker.channel();
            let served = channel.run(serve(Arc::clone(&remote), cluster, talk)).await;
            let cause = served.unwrap_or(Cause::Lost);
            remote.lost(cause);
            route.discard();
        }
    };
    tokio::select! {
        biased;
        _ = stopped.changed() => {}
        () = work => {}
        () = remote.expire() => {}
    }
}

/// Sends on this connection until it is of no use any more.
async fn serve(remote: Arc<Remote>, cluster: Cluster, talk: Talk) -> Cause {
    let Talk {
        speaker,
        mut answers,
        welcome,
    } = talk;
    let welcomed = remote.with(|packets, settled| packets.welcome(&welcome, settled));
    if let Err(violation) = welcomed {
        return Cause::Protocol(violation.to_string());
    }
    remote.set_state(PeerState::Connected);
    tokio::select! {
        biased;
        () = remote.moved.notified() => Cause::Moved,
        cause = hear(&remote, &mut answers) => cause,
        cause = speak(&remote, &speaker) => cause,
        () = lost(&cluster) => Cause::Lost,
    }
}

/// Sends what there is to send.
async fn speak(remote: &Remote, speaker: &Speaker) -> Cause {
    loop {
        let packed = remote.with(|packets, settled| packets.pack(ROOM, settled));
        match packed {
            None => remote.wake.notified().await,
            Some(packed) => {
                if speaker.say(&packed.body).await.is_err() {
                    return Cause::Lost;
                }
            }
        }
    }
}

/// Takes note of what the other side says.
async fn hear(remote: &Remote, answers: &mut Answers) -> Cause {
    loop {
        match answers.next().await {
            Ok(ToSender::Receipt(receipt)) => {
                let noted = remote.with(|packets, settled| packets.receipt(&receipt, settled));
                if let Err(violation) = noted {
                    return Cause::Protocol(violation.to_string());
                }
                remote.wake.notify_one();
            }
            Ok(ToSender::Replaced) => return Cause::Replaced,
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
