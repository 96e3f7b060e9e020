//! The place of one broker: its folder, its port mapper, and who ends it all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::install::{Installation, NotInstalled, install};
use super::process;
use crate::ports;
use crate::wait::eventually;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no RabbitMQ on this machine.
    #[error(transparent)]
    NotInstalled(#[from] NotInstalled),
    /// A folder, a file or a program of the node failed.
    #[error("the RabbitMQ node could not be set up: {0}")]
    Io(#[from] io::Error),
    /// The node ended, or did not open its port in time.
    #[error("RabbitMQ node {name} did not start: {reason}\n{log}")]
    NotStarted {
        /// The node's name.
        name: String,
        /// What was seen of it.
        reason: String,
        /// The end of what it wrote.
        log: String,
    },
}

/// What the nodes of one broker share. When the last of them is dropped, everything is gone.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) installation: Installation,
    folder: PathBuf,
    pub(super) epmd_port: u16,
    /// The port mapper's process.
    pub(super) epmd: u32,
    keeper: Option<Keeper>,
}

/// Ends the broker with this value or with this process, whichever goes first.
#[derive(Debug)]
struct Keeper {
    /// Leads the process group that every node joins.
    epmd: Child,
    /// Waits for this process to be gone. Its input is a pipe from here that nobody writes to.
    watchdog: Child,
    /// Removed last.
    _folder: TempDir,
}

/// Reading ends when the other end of the pipe is closed, which the kernel does for a process that
/// was killed. A node may write on for a moment after the signal.
const WATCHDOG: &str = r#"
read -r _
kill -s KILL -- "-$1"
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$2" && exit
    sleep 0.1
done 2>/dev/null
"#;

/// Waits for a word before it becomes epmd. If this process dies before the watchdog knows the
/// group, there is no word, and nothing is left behind.
const EPMD: &str = r#"read -r _ && exec "$0" "$@" </dev/null"#;

impl Home {
    /// A broker that dies with this process, in a temporary folder.
    pub(super) async fn temporary() -> Result<Self, Error> {
        let installation = installation().await?;
        let folder = TempDir::with_prefix("wharf-rabbit-")?;
        write_cookie(folder.path())?;
        let epmd_port = ports::free();
        let path = folder.path().to_owned();
        let keeper = Keeper::start(epmd_port, folder)?;
        let home = Self {
            installation,
            folder: path,
            epmd_port,
            epmd: keeper.epmd.id(),
            keeper: Some(keeper),
        };
        home.epmd_listens().await;
        Ok(home)
    }

    /// A broker that stays when this process ends, in a folder of the caller's.
    pub(super) async fn standing(folder: &Path) -> Result<Self, Error> {
        let installation = installation().await?;
        fs::create_dir_all(folder)?;
        write_cookie(folder)?;
        let epmd_port = ports::free();
        let epmd = epmd_command(epmd_port)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let home = Self {
            installation,
            folder: folder.to_owned(),
            epmd_port,
            epmd: epmd.id(),
            keeper: None,
        };
        home.epmd_listens().await;
        Ok(home)
    }

    /// The place of a broker that somebody else started and will end.
    pub(super) async fn of_another(
        folder: &Path,
        epmd: u32,
        epmd_port: u16,
    ) -> Result<Self, Error> {
        Ok(Self {
            installation: installation().await?,
            folder: folder.to_owned(),
            epmd_port,
            epmd,
            keeper: None,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the broker ends with this value.
    pub(super) fn ends_with_us(&self) -> bool {
        self.keeper.is_some()
    }

    /// Puts a process into the group that ends together, or at least out of reach of the signals
    /// a terminal sends to our own group.
    pub(super) fn adopt(&self, command: &mut Command) {
        let leader = self.keeper.as_ref().map_or(0, |keeper| keeper.epmd.id());
        command.process_group(leader.try_into().expect("bug: a process number fits"));
    }

    async fn epmd_listens(&self) {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, self.epmd_port));
        eventually("epmd listens", Duration::from_secs(20), async || {
            TcpStream::connect(addr).await.is_ok()
        })
        .await;
    }
}

impl Keeper {
    fn start(epmd_port: u16, folder: TempDir) -> io::Result<Self> {
        let real = epmd_command(epmd_port);
        let mut epmd = Command::new("sh")
            .args(["-c", EPMD])
            .arg(real.get_program())
            .args(real.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(epmd.id().to_string())
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut word = epmd.stdin.take().expect("bug: its input is a pipe");
        word.write_all(b"go\n")?;
        Ok(Self {
            epmd,
            watchdog,
            _folder: folder,
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // First the watchdog: once epmd has been waited for, its number may belong to others.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        process::signal_group(self.epmd.id(), Signal::KILL);
        let _ = self.epmd.wait();
    }
}

async fn installation() -> Result<Installation, Error> {
    let found = tokio::task::spawn_blocking(install).await;
    Ok(found.expect("bug: looking for RabbitMQ panicked")?)
}

fn epmd_command(port: u16) -> Command {
    let mut command = Command::new("epmd");
    command
        .args(["-port", &port.to_string()])
        .args(["-address", "127.0.0.1"]);
    command
}

/// What nodes and tools prove themselves with. Other users of the machine can reach loopback, so it
/// must not be guessed.
fn write_cookie(folder: &Path) -> io::Result<()> {
    let path = folder.join(".erlang.cookie");
    if path.exists() {
        return Ok(());
    }
    let mut random = [0; 16];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
    let cookie: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(path)?;
    file.write_all(cookie.as_bytes())
}
