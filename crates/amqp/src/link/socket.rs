//! A nonblocking socket, and who waits for it.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    mem::replace,
    net::{self, Shutdown},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::io as connections;

pub(super) enum Socket {
    /// The reactor of the connections' runtime waits for it.
    Watched(TcpStream),
    /// Whoever reads it waits for it as well: nobody is woken when it is ready.
    #[cfg_attr(not(unix), expect(dead_code, reason = "there are no naps"))]
    Own(net::TcpStream),
    /// It got lost between the two.
    Lost,
}

impl Socket {
    /// Takes it from the reactor.
    #[cfg(unix)]
    pub(super) fn own(&mut self) -> io::Result<&net::TcpStream> {
        *self = match replace(self, Self::Lost) {
            Self::Watched(socket) => Self::Own(socket.into_std()?),
            other => other,
        };
        match self {
            Self::Own(socket) => Ok(socket),
            Self::Watched(_) | Self::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Gives it to the reactor.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        *self = match replace(self, Self::Lost) {
            Self::Own(socket) => {
                let _context = connections::handle().enter();
                Self::Watched(TcpStream::from_std(socket)?)
            }
            other => other,
        };
        Ok(())
    }

    pub(super) fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    pub(super) fn second_handle(&self) -> io::Result<net::TcpStream> {
        match self {
            Self::Watched(socket) => second_handle(socket),
            Self::Own(socket) => socket.try_clone(),
            Self::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Watched(socket) => {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(socket).poll_read(context, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Self::Own(socket) => attempt(|| socket.read(buffer)),
            Self::Lost => lost(),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Watched(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Self::Own(socket) => attempt(|| socket.write_vectored(slices)),
            Self::Lost => lost(),
        }
    }

    /// Says that nothing more will be written.
    pub(super) fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Watched(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Own(socket) => Poll::Ready(match socket.shutdown(Shutdown::Write) {
                // It has ended, and tokio says no more of that.
                Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
                done => done,
            }),
            Self::Lost => lost(),
        }
    }
}

fn attempt(mut step: impl FnMut() -> io::Result<usize>) -> Poll<io::Result<usize>> {
    loop {
        match step() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

fn lost<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(ErrorKind::NotConnected.into()))
}

#[cfg(unix)]
fn second_handle(socket: &TcpStream) -> io::Result<net::TcpStream> {
    use std::os::fd::AsFd;

    Ok(socket.as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn second_handle(socket: &TcpStream) -> io::Result<net::TcpStream> {
    use std::os::windows::io::AsSocket;

    Ok(socket.as_socket().try_clone_to_owned()?.into())
}
