//! What connections read from and write to: a TCP socket, with or without TLS.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::Shutdown,
};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::net::TcpStream;

#[cfg(feature = "rustls")]
use {super::secured::Secured, rustls::ServerConfig, std::sync::Arc, tokio::task::yield_now};

/// How a listener's connections are spoken over.
#[derive(Clone)]
pub(crate) enum Transport {
    Plain,
    #[cfg(feature = "rustls")]
    Tls(Arc<ServerConfig>),
}

/// What is there is read and what has room is written; who finds neither waits.
#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    #[cfg(feature = "rustls")]
    Tls(Box<Secured>),
}

impl Transport {
    /// Of a URL.
    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Self::Plain => "amqp",
            #[cfg(feature = "rustls")]
            Self::Tls(_) => "amqps",
        }
    }

    /// Of a connection that was accepted. With TLS its handshake is still to come, and is done as the
    /// socket is read from and flushed.
    pub(super) fn socket(&self, tcp: TcpStream) -> io::Result<Socket> {
        match self {
            Self::Plain => Ok(Socket::Plain(tcp)),
            #[cfg(feature = "rustls")]
            Self::Tls(config) => Ok(Socket::Tls(Box::new(Secured::new(
                tcp,
                Arc::clone(config),
            )?))),
        }
    }
}

/// Without the key.
impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme())
    }
}

impl Socket {
    /// What is below TLS.
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            #[cfg(feature = "rustls")]
            Self::Tls(secured) => secured.tcp(),
        }
    }

    /// Until there may be something to read, an end among it.
    pub(super) async fn readable(&self) -> io::Result<()> {
        #[cfg(feature = "rustls")]
        if let Self::Tls(secured) = self {
            if secured.is_spent() {
                yield_now().await;
            }
            if secured.has_unread() {
                return Ok(());
            }
        }
        self.tcp().readable().await
    }

    /// Until the socket may take something.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.tcp().writable().await
    }

    /// Reads what there is, as much as there is room for. Zero is the end.
    pub(super) fn try_read_buf(&self, bytes: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_read_buf(bytes),
            #[cfg(feature = "rustls")]
            Self::Tls(secured) => secured.try_read_buf(bytes),
        }
    }

    /// Writes what there is room for, after all was flushed that was written before.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write(bytes),
            #[cfg(feature = "rustls")]
            Self::Tls(secured) => secured.try_write(bytes),
        }
    }

    /// Whether the peer's side took some of what was written already, or of what TLS has to say by
    /// itself. If not, there was nothing.
    pub(super) fn try_flush(&self) -> io::Result<bool> {
        match self {
            Self::Plain(_) => Ok(false),
            #[cfg(feature = "rustls")]
            Self::Tls(secured) => secured.try_flush(),
        }
    }

    /// Says that nothing more will be written, behind what was.
    pub(super) async fn end(&self) -> io::Result<()> {
        #[cfg(feature = "rustls")]
        if let Self::Tls(secured) = self {
            secured.close();
        }
        loop {
            match self.try_flush() {
                Ok(true) => {}
                Ok(false) => return self.cut(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends what is written, and with TLS the peer is not told that this was meant.
    pub(super) fn cut(&self) -> io::Result<()> {
        SockRef::from(self.tcp()).shutdown(Shutdown::Write)
    }
}
