//! The crate `zeromq`: nothing is acknowledged but by whoever replies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use wharf_race::lane::Trouble;
use zeromq::{
    Endpoint, PullSocket, PushSocket, RepSocket, ReqSocket, Socket, SocketRecv, SocketSend,
    ZmqMessage,
};

use super::{STRIDE, Sending};
use crate::packet::{Ledger, number, owned};
use crate::receiver::Addresses;

const ANYWHERE: &str = "tcp://127.0.0.1:0";

/// One that counts what is pushed to it, and where.
pub async fn pull(ledger: Arc<Ledger>) -> Result<SocketAddr, Trouble> {
    let mut socket = PullSocket::new();
    let endpoint = socket.bind(ANYWHERE).await.map_err(Trouble::of)?;
    tokio::spawn(async move {
        loop {
            // Whoever pushed is gone; the next one comes.
            if let Ok(message) = socket.recv().await {
                take(&ledger, &message);
            }
        }
    });
    address(&endpoint)
}

/// One that counts requests and sends them back.
pub async fn reply(ledger: Arc<Ledger>) -> Result<SocketAddr, Trouble> {
    let mut socket = RepSocket::new();
    let endpoint = socket.bind(ANYWHERE).await.map_err(Trouble::of)?;
    tokio::spawn(async move {
        loop {
            if let Ok(message) = socket.recv().await {
                take(&ledger, &message);
                let _ = socket.send(message).await;
            }
        }
    });
    address(&endpoint)
}

fn take(ledger: &Ledger, message: &ZmqMessage) {
    ledger.take(message.get(0).map_or(&[], |frame| &frame[..]));
}

fn address(endpoint: &Endpoint) -> Result<SocketAddr, Trouble> {
    let address = endpoint.to_string();
    let address = address.trim_start_matches("tcp://");
    address.parse().map_err(Trouble::of)
}

/// Pushes. What is in no one's hands yet is in the sender's memory.
pub struct Push(PushSocket);

impl Sending for Push {
    async fn open(to: Addresses) -> Result<Self, Trouble> {
        let mut socket = PushSocket::new();
        let endpoint = format!("tcp://{}", to.pull);
        socket.connect(&endpoint).await.map_err(Trouble::of)?;
        Ok(Self(socket))
    }

    async fn send(&mut self, first: u64, end: Instant) -> Result<u64, Trouble> {
        let mut next = first;
        while !next.is_multiple_of(STRIDE) || Instant::now() < end {
            let sent = self.0.send(owned(next).into()).await;
            sent.map_err(Trouble::of)?;
            next += 1;
        }
        Ok(next)
    }
}

/// Sends requests, one after the reply to the one before.
pub struct Request(ReqSocket);

impl Sending for Request {
    async fn open(to: Addresses) -> Result<Self, Trouble> {
        let mut socket = ReqSocket::new();
        let endpoint = format!("tcp://{}", to.reply);
        socket.connect(&endpoint).await.map_err(Trouble::of)?;
        Ok(Self(socket))
    }

    async fn send(&mut self, first: u64, end: Instant) -> Result<u64, Trouble> {
        let mut next = first;
        while Instant::now() < end {
            let sent = self.0.send(owned(next).into()).await;
            sent.map_err(Trouble::of)?;
            let reply = self.0.recv().await.map_err(Trouble::of)?;
            if reply.get(0).and_then(|frame| number(frame)) != Some(next) {
                return Err(Trouble::Failed("another reply than was asked for".into()));
            }
            next += 1;
        }
        Ok(next)
    }
}
