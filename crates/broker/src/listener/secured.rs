//! A socket under TLS.

use std::{
    io::{self, BufRead, ErrorKind, IoSlice, Read, Write},
    sync::Arc,
};

use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};
use rustls::{ServerConfig, ServerConnection};
use tokio::net::TcpStream;

/// What it holds for a peer that is not known yet is bounded by rustls: 64 KiB of a handshake message
/// that is incomplete, or 18 KiB of a record, and one handshake's answers. It ends those who send
/// records without bytes, warnings or key updates over and over.
#[derive(Debug)]
pub(super) struct Secured {
    tcp: TcpStream,
    /// Never held across an await. Nothing else is locked under it.
    session: Mutex<ServerConnection>,
}

impl Secured {
    pub(super) fn new(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Self {
            tcp,
            session: Mutex::new(session),
        })
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether something is decrypted that nobody has read, or the peer has said that it ends.
    pub(super) fn has_unread(&self) -> bool {
        self.session.lock().reader().fill_buf().is_ok()
    }

    pub(super) fn try_read_buf(&self, bytes: &mut BytesMut) -> io::Result<usize> {
        let mut session = self.session.lock();
        let mut read = 0;
        while bytes.len() < bytes.capacity() {
            let mut reader = session.reader();
            match reader.fill_buf() {
                Ok([]) => break,
                Ok(decrypted) => {
                    let room = bytes.capacity() - bytes.len();
                    let taken = decrypted.len().min(room);
                    bytes.extend_from_slice(&decrypted[..taken]);
                    reader.consume(taken);
                    read += taken;
                }
                // AMQP has a close of its own, so an end without TLS's is one as well.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match self.receive(&mut session) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock && read > 0 => break,
                        received => received?,
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    /// Encrypts as much as the session holds, which is 64 KiB.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.session.lock().writer().write(bytes)
    }

    pub(super) fn try_flush(&self) -> io::Result<bool> {
        let mut session = self.session.lock();
        if !session.wants_write() {
            return Ok(false);
        }
        match session.write_tls(&mut Raw(&self.tcp))? {
            0 => Err(ErrorKind::WriteZero.into()),
            _ => Ok(true),
        }
    }

    /// Is yet to be flushed. After a fatal alert there is nothing to be said.
    pub(super) fn close(&self) {
        self.session.lock().send_close_notify();
    }

    /// Decrypts what one read brings. What can not be understood is [`ErrorKind::InvalidData`], and
    /// the alert that tells the peer is yet to be flushed.
    fn receive(&self, session: &mut MutexGuard<'_, ServerConnection>) -> io::Result<()> {
        session.read_tls(&mut Raw(&self.tcp))?;
        session
            .process_new_packets()
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(())
    }
}

/// What rustls reads from and writes to.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(bytes)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
