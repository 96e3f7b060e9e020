//! Waiting for a socket on the thread that reads it, until there is something to read or a bell rings.

use std::{
    io::{self, PipeReader, PipeWriter, Read, Write, pipe},
    net::TcpStream,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// Ends a nap. Rung once a nap at most, and heard each time that it was.
pub(super) struct Bell {
    listener: PipeReader,
    ringer: PipeWriter,
}

/// Why a nap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// There is something to read, or the connection has ended.
    Readable,
    Rung,
    /// Nothing happened for as long as the nap may take.
    Late,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let (listener, ringer) = pipe()?;
        Ok(Self { listener, ringer })
    }

    pub(super) fn ring(&self) {
        // It has the listener itself, and room for a byte.
        let _ = (&self.ringer).write_all(&[0]);
    }

    /// Waits for the ring, and forgets it.
    pub(super) fn hear(&self) {
        let _ = (&self.listener).read_exact(&mut [0]);
    }

    pub(super) fn nap(&self, socket: &TcpStream, longest: Duration) -> io::Result<Woken> {
        let longest = Timespec::try_from(longest).expect("bug: a nap of years");
        let mut events = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        match poll(&mut events, Some(&longest)) {
            Ok(0) => Ok(Woken::Late),
            Ok(_) if events[0].revents().is_empty() => Ok(Woken::Rung),
            // Interrupted, which a look at the socket does no harm.
            Ok(_) | Err(Errno::INTR) => Ok(Woken::Readable),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Shutdown, TcpListener},
        thread,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn a_nap_ends_when_the_bell_rings_once_for_each_ring() {
        let ((socket, _peer), bell) = (connected(), Bell::new().unwrap());
        for _ in 0..100 {
            thread::scope(|scope| {
                scope.spawn(|| bell.ring());
                assert_eq!(bell.nap(&socket, LONG).unwrap(), Woken::Rung);
                bell.hear();
            });
        }
        assert_eq!(bell.nap(&socket, Duration::ZERO).unwrap(), Woken::Late);
    }

    #[test]
    fn a_nap_ends_when_there_is_something_to_read() {
        let ((socket, mut peer), bell) = (connected(), Bell::new().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| peer.write_all(&[1]).unwrap());
            assert_eq!(bell.nap(&socket, LONG).unwrap(), Woken::Readable);
        });
        bell.ring();
        assert_eq!(bell.nap(&socket, LONG).unwrap(), Woken::Readable);
    }

    #[test]
    fn a_nap_ends_when_another_handle_ends_the_connection() {
        let ((socket, _peer), bell) = (connected(), Bell::new().unwrap());
        let other = socket.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| other.shutdown(Shutdown::Both).unwrap());
            assert_eq!(bell.nap(&socket, LONG).unwrap(), Woken::Readable);
        });
    }

    #[test]
    fn a_nap_ends_with_the_connection() {
        let ((socket, peer), bell) = (connected(), Bell::new().unwrap());
        drop(peer);
        assert_eq!(bell.nap(&socket, LONG).unwrap(), Woken::Readable);
    }
}
