//! A socket under TLS.

use std::{
    io::{self, BufRead, ErrorKind, IoSlice, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};
use rustls::{ServerConfig, ServerConnection};
use tokio::net::TcpStream;

/// How often one read may turn to the socket, each time for some 4 KiB. Most of what comes fills the buffer
/// sooner; but a peer may send records of which nothing comes to be read, each of them some work.
const RECEIVES: usize = 16;

/// What it holds for a peer that is not known yet is bounded by rustls: 64 KiB of a handshake message
/// that is incomplete, or 18 KiB of a record, and one handshake's answers. It ends those who send
/// records without bytes, warnings or key updates over and over, but not those who send them by turns, which
/// is why a read has a share and no more.
#[derive(Debug)]
pub(super) struct Secured {
    tcp: TcpStream,
    /// Never held across an await. Nothing else is locked under it.
    session: Mutex<ServerConnection>,
    /// Whether the last read has turned to the socket as often as it may. Only for whoever reads.
    is_spent: AtomicBool,
}

impl Secured {
    pub(super) fn new(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Self {
            tcp,
            session: Mutex::new(session),
            is_spent: AtomicBool::new(false),
        })
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether others should have their turn before the next read. Forgets it.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent.swap(false, Ordering::Relaxed)
    }

    /// Whether something is decrypted that nobody has read, or the peer has said that it ends. The
    /// socket's readiness says nothing of that.
    pub(super) fn has_unread(&self) -> bool {
        self.session.lock().reader().fill_buf().is_ok()
    }

    /// Says that it would block as well when it has had its share of the socket and nothing has come of
    /// it. The socket is still readable then.
    pub(super) fn try_read_buf(&self, bytes: &mut BytesMut) -> io::Result<usize> {
        let mut session = self.session.lock();
        let mut read = 0;
        let mut receives = 0;
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
                    if receives == RECEIVES {
                        self.is_spent.store(true, Ordering::Relaxed);
                        return if read > 0 { Ok(read) } else { Err(error) };
                    }
                    receives += 1;
                    match self.receive(&mut session) {
                        // A reset, too, comes behind what was said before it.
                        Err(error) if error.kind() != ErrorKind::InvalidData && read > 0 => break,
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

#[cfg(test)]
mod tests {
    use std::{
        net::{Shutdown, SocketAddr, TcpStream as Blocking},
        thread::{self, JoinHandle},
        time::Duration,
    };

    use futures_util::FutureExt;
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring,
        pki_types::ServerName,
    };
    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        listener::socket::{Socket, Transport},
        tls::Tls,
    };

    type Client = StreamOwned<ClientConnection, Blocking>;

    /// A socket, and a client that does this first.
    async fn pair<T: Send + 'static>(
        first: impl FnOnce(Client) -> T + Send + 'static,
    ) -> (Socket, JoinHandle<T>) {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        let names = ["127.0.0.1".to_owned()];
        let own = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(&cert, own.cert.pem()).unwrap();
        std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
        let Ok(config) = Tls::new(cert, key).load() else {
            panic!("not loaded");
        };

        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let client = thread::spawn(move || first(connect(addr, roots)));
        let (tcp, _) = listener.accept().await.unwrap();
        (Transport::Tls(config).socket(tcp).unwrap(), client)
    }

    fn connect(addr: SocketAddr, roots: RootCertStore) -> Client {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(session, Blocking::connect(addr).unwrap())
    }

    /// A socket, and a client whose handshake is done.
    async fn greeted() -> (Socket, Client) {
        let (socket, client) = pair(|mut client| {
            client.write_all(b"hello").unwrap();
            client
        })
        .await;
        assert_eq!(&read(&socket, 64).await[..], b"hello");
        (socket, client.join().unwrap())
    }

    /// What is to be written of it.
    fn said(session: &mut ClientConnection) -> Vec<u8> {
        let mut bytes = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Reads once there is something. Meanwhile it says what TLS has to say.
    async fn read(socket: &Socket, room: usize) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(room);
        loop {
            socket.readable().await.unwrap();
            match socket.try_read_buf(&mut bytes) {
                Ok(_) => return bytes,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            while socket.try_flush().unwrap() {}
        }
    }

    #[tokio::test]
    async fn decrypted_bytes_are_there_to_be_read_when_the_socket_has_no_more() {
        let (socket, client) = pair(|mut client| {
            client.write_all(&[7; 10_000]).unwrap();
            client
        })
        .await;
        assert_eq!(read(&socket, 64).await.len(), 64);
        let client = client.join().unwrap();
        // All of it was one record. The runtime learns that the socket is empty.
        let below = socket.tcp().try_read(&mut [0]);
        assert_eq!(below.unwrap_err().kind(), ErrorKind::WouldBlock);
        let rest = read(&socket, 10_000).now_or_never().unwrap();
        assert_eq!(rest.len(), 10_000 - 64);
        drop(client);
        assert!(read(&socket, 64).await.is_empty(), "the end");
    }

    #[tokio::test]
    async fn no_more_is_taken_than_the_session_holds_until_the_socket_took_it() {
        let (socket, mut client) = greeted().await;
        let megabyte = vec![7; 1 << 20];
        let mut written = 0;
        let full = loop {
            match socket.try_flush() {
                Ok(true) => {}
                Ok(false) => {
                    let taken = socket.try_write(&megabyte).unwrap();
                    assert!((1..=64 << 10).contains(&taken), "{taken}");
                    written += taken;
                }
                Err(error) => break error.kind(),
            }
        };
        assert_eq!(full, ErrorKind::WouldBlock);
        let reading = thread::spawn(move || {
            let mut got = Vec::new();
            client.read_to_end(&mut got).unwrap();
            got
        });
        socket.end().await.unwrap();
        let got = tokio::task::spawn_blocking(|| reading.join().unwrap());
        assert_eq!(got.await.unwrap(), vec![7; written]);
    }

    /// Between any two bytes there may be 32 key updates, each of them some work.
    #[tokio::test]
    async fn one_read_takes_no_more_of_the_socket_than_its_share_whatever_little_it_brings() {
        let (socket, mut client) = greeted().await;
        let mut flood = Vec::new();
        while flood.len() < 160_000 {
            for _ in 0..32 {
                client.conn.refresh_traffic_keys().unwrap();
            }
            client.conn.writer().write_all(&[0]).unwrap();
            flood.extend(said(&mut client.conn));
        }
        // All of it has room, here if not there.
        SockRef::from(&client.sock)
            .set_send_buffer_size(1 << 20)
            .unwrap();
        client.sock.write_all(&flood).unwrap();
        client.sock.shutdown(Shutdown::Write).unwrap();
        let Socket::Tls(secured) = socket else {
            panic!("not under TLS")
        };
        secured.tcp.readable().await.unwrap();
        let read = secured.try_read_buf(&mut BytesMut::with_capacity(4_096));
        assert!(secured.is_spent(), "{read:?}");
        assert!(!secured.is_spent(), "it forgets that");
        let mut left = Vec::new();
        let mut below = secured.tcp.into_std().unwrap();
        below.set_nonblocking(false).unwrap();
        below.read_to_end(&mut left).unwrap();
        let taken = flood.len() - left.len();
        assert!(taken <= 131_072, "{taken} bytes for {read:?}");
    }

    #[tokio::test]
    async fn what_a_client_has_said_before_its_reset_is_read() {
        let (socket, mut client) = greeted().await;
        client.write_all(b"last words").unwrap();
        SockRef::from(&client.sock)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
        assert_eq!(&read(&socket, 64).await[..], b"last words");
        let end = socket.try_read_buf(&mut BytesMut::with_capacity(64));
        assert!(!matches!(end, Ok(1..)), "{end:?}");
    }
}
