//! wharf-peers, with its defaults: acknowledged by the handler.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use wharf_peers::{HandlerError, Peer, PeerState, Receipt, SendError};
use wharf_race::lane::Trouble;

use super::{STRIDE, Sending};
use crate::packet::{Ledger, WINDOW, owned};
use crate::receiver::Addresses;

const SENDER: &str = "sender";
const RECEIVER: &str = "receiver";
const TOKEN: &str = "bench";

/// A peer that counts what it is sent, and where it listens.
pub async fn receive(ledger: Arc<Ledger>) -> Result<(Peer, SocketAddr), Trouble> {
    let handler = move |_: Arc<str>, packet: Bytes| -> Ready<Result<(), HandlerError>> {
        ledger.take(&packet);
        ready(Ok(()))
    };
    let peer = Peer::builder(RECEIVER)
        .listen("127.0.0.1:0")
        .caller(SENDER)
        .token(TOKEN)
        .start(handler);
    let peer = peer.await.map_err(Trouble::of)?;
    let address = peer.listening().await;
    let address = address.ok_or_else(|| Trouble::Failed("it does not listen".into()))?;
    Ok((peer, address))
}

async fn connect(to: Addresses) -> Result<Peer, Trouble> {
    let peer = Peer::builder(SENDER)
        .peer(RECEIVER, to.wharf.to_string())
        .token(TOKEN)
        .start(|_, _| async { Ok(()) });
    let peer = peer.await.map_err(Trouble::of)?;
    let mut state = peer.watch(RECEIVER).expect("bug: it is a peer");
    let connected = state.wait_for(|state| matches!(state, PeerState::Connected));
    connected.await.map_err(Trouble::of)?;
    Ok(peer)
}

/// One task that submits, and awaits the oldest receipt when the window is full.
pub struct Many {
    peer: Peer,
    receipts: VecDeque<Receipt>,
}

impl Sending for Many {
    async fn open(to: Addresses) -> Result<Self, Trouble> {
        Ok(Self {
            peer: connect(to).await?,
            receipts: VecDeque::with_capacity(WINDOW),
        })
    }

    async fn send(&mut self, first: u64, end: Instant) -> Result<u64, Trouble> {
        let mut next = first;
        while !next.is_multiple_of(STRIDE) || Instant::now() < end {
            if self.receipts.len() == WINDOW {
                self.answered().await.map_err(Trouble::of)?;
            }
            let submit = self.peer.submit(RECEIVER, owned(next));
            self.receipts.push_back(submit.await.map_err(Trouble::of)?);
            next += 1;
        }
        while !self.receipts.is_empty() {
            self.answered().await.map_err(Trouble::of)?;
        }
        Ok(next)
    }
}

impl Many {
    async fn answered(&mut self) -> Result<(), SendError> {
        match self.receipts.pop_front() {
            Some(receipt) => receipt.await,
            None => Ok(()),
        }
    }
}

/// One packet after the answer to the one before.
pub struct OneByOne(Peer);

impl Sending for OneByOne {
    async fn open(to: Addresses) -> Result<Self, Trouble> {
        connect(to).await.map(Self)
    }

    async fn send(&mut self, first: u64, end: Instant) -> Result<u64, Trouble> {
        let mut next = first;
        while Instant::now() < end {
            let sent = self.0.send(RECEIVER, owned(next)).await;
            sent.map_err(Trouble::of)?;
            next += 1;
        }
        Ok(next)
    }
}
