//! One RabbitMQ node: started, killed, started again.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::net::TcpStream;

use super::home::{Error, Home};
use super::process;
use crate::ports;
use crate::wait::eventually;

/// A start takes 4 to 6 s on an idle machine.
const START_BOUND: Duration = Duration::from_secs(120);

/// For everything else that a node does when told.
const BOUND: Duration = Duration::from_secs(60);

/// A private RabbitMQ node.
///
/// This is a handle: clones mean the same node, which ends with the last of them. Methods that
/// control the node panic when the node does not do what it is told.
#[derive(Clone, Debug)]
pub struct Rabbit {
    pub(super) node: Arc<Node>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) home: Arc<Home>,
    folder: PathBuf,
    port: u16,
    distribution_port: u16,
    /// The virtual machine while there is one. Held for a look or an exchange only.
    vm: Mutex<Option<Vm>>,
    /// Tests that know nothing of each other use it.
    shared: bool,
}

#[derive(Debug)]
enum Vm {
    Ours(Child),
    Anothers(u32),
}

impl Vm {
    fn id(&self) -> u32 {
        match self {
            Self::Ours(child) => child.id(),
            Self::Anothers(id) => *id,
        }
    }
}

/// What it takes to reach a node that another process started.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) vm: u32,
}

impl Rabbit {
    /// Starts a node of the caller's own, and waits until it serves: 4 to 6 s.
    ///
    /// # Panics
    ///
    /// When it does not start; [`Self::try_start`] gives the error instead.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts a node with these lines of `rabbitmq.conf` on top.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start_with(configuration: &str) -> Self {
        let started = Self::start_in_new_home(configuration).await;
        started.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a node, installing RabbitMQ first where it is missing and may be installed.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is missing, or what the node said before it ended.
    pub async fn try_start() -> Result<Self, Error> {
        Self::start_in_new_home("").await
    }

    async fn start_in_new_home(configuration: &str) -> Result<Self, Error> {
        let home = Arc::new(Home::temporary().await?);
        let rabbit = Self::prepare(home, "rabbit@localhost", configuration)?;
        rabbit.boot().await?;
        Ok(rabbit)
    }

    /// Gives a node its folder and its ports. Nothing runs yet.
    pub(super) fn prepare(home: Arc<Home>, name: &str, configuration: &str) -> Result<Self, Error> {
        let folder = home.folder().join(name);
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join("rabbitmq.conf"),
            format!("{CONFIGURATION}{configuration}\n"),
        )?;
        fs::write(folder.join("advanced.config"), "[].\n")?;
        fs::write(folder.join("enabled_plugins"), "[].\n")?;
        fs::write(folder.join("rabbitmq-env.conf"), "")?;
        let node = Node {
            name: name.to_owned(),
            home,
            folder,
            port: ports::free(),
            distribution_port: ports::free(),
            vm: Mutex::new(None),
            shared: false,
        };
        Ok(Self {
            node: Arc::new(node),
        })
    }

    /// A handle to a node that another process runs and ends.
    pub(super) fn of_another(home: Home, running: Running) -> Self {
        let node = Node {
            folder: home.folder().join(&running.name),
            name: running.name,
            home: Arc::new(home),
            port: running.port,
            distribution_port: 0,
            vm: Mutex::new(Some(Vm::Anothers(running.vm))),
            shared: true,
        };
        Self {
            node: Arc::new(node),
        }
    }

    /// Marks a node that has one handle so far as used by all.
    pub(super) fn share(self) -> Self {
        let mut node = self.node;
        Arc::get_mut(&mut node)
            .expect("bug: a node is shared before it is handed out")
            .shared = true;
        Self { node }
    }

    /// Where AMQP clients connect to.
    #[must_use]
    pub fn amqp_addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.node.port))
    }

    /// The URL of the default vhost, with the user `guest` who may do anything.
    #[must_use]
    pub fn url(&self) -> String {
        self.root().url()
    }

    /// The Erlang name of the node, such as `rabbit@localhost`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.node.name
    }

    /// The number of the node's process while it has one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.node.vm.lock().as_ref().map(Vm::id)
    }

    /// The end of what the node wrote into its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        self.node.log_tail(lines)
    }

    /// Kills the node with SIGKILL; returns when the process is gone and its port is closed.
    ///
    /// # Panics
    ///
    /// On a shared node.
    pub async fn kill(&self) {
        self.assert_own("kill");
        self.end(Signal::KILL).await;
    }

    /// Has what was declared so far written to disk.
    ///
    /// RabbitMQ (3.10.8) answers a declaration, and confirms messages, before that: on a busy machine
    /// a node that is killed a moment later comes back without the queue, durable or not, and its log
    /// says "Recovering 0 queues". Who tests what a client makes of a kill does this first.
    ///
    /// # Panics
    ///
    /// When the node does not run.
    pub async fn save_declarations(&self) {
        self.eval("dumped = mnesia:dump_log()").await;
    }

    /// Lets the node shut down in order (SIGTERM): clients are told, queues are written.
    ///
    /// # Panics
    ///
    /// On a shared node, or when it has not ended after a minute.
    pub async fn stop(&self) {
        self.assert_own("stop");
        self.end(Signal::TERM).await;
    }

    /// Starts the node again, with what it had on disk, and waits until it serves. One that still
    /// runs is killed first.
    ///
    /// # Panics
    ///
    /// On a shared node, or when it does not start.
    pub async fn restart(&self) {
        self.kill().await;
        if let Err(error) = self.boot().await {
            panic!("{error}");
        }
    }

    /// Stops the process without ending it (SIGSTOP): its connections stay and say nothing more.
    ///
    /// # Panics
    ///
    /// On a shared node, or one that does not run.
    pub async fn pause(&self) {
        self.assert_own("pause");
        let vm = self.vm();
        process::signal(vm, Signal::STOP);
        process::stopped(vm, true).await;
    }

    /// Lets a paused process run on (SIGCONT).
    ///
    /// # Panics
    ///
    /// On a shared node, or one that does not run.
    pub async fn resume(&self) {
        self.assert_own("resume");
        let vm = self.vm();
        process::signal(vm, Signal::CONT);
        process::stopped(vm, false).await;
    }

    /// Starts the process and waits until it serves.
    pub(super) async fn boot(&self) -> Result<(), Error> {
        self.launch()?;
        self.serves().await
    }

    pub(super) fn launch(&self) -> Result<(), Error> {
        Ok(self.node.launch()?)
    }

    pub(super) async fn serves(&self) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            if TcpStream::connect(self.amqp_addr()).await.is_ok() {
                break;
            }
            if let Some(status) = self.node.status_at_end()? {
                return Err(self.node.not_started(format!("it ended with {status}")));
            }
            if start.elapsed() > START_BOUND {
                let reason = format!("it does not listen after {START_BOUND:?}");
                return Err(self.node.not_started(reason));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Until the last step of its start, the other nodes of a cluster do not count on it.
        self.eval("ok = rabbit:await_startup()").await;
        // A vhost that it cannot recover it leaves aside, with all its queues, and serves.
        let aside = self.eval(VHOSTS_ASIDE).await;
        if aside == "[]" {
            return Ok(());
        }
        let reason = format!("it did not recover these vhosts: {aside}");
        Err(self.node.not_started(reason))
    }

    /// What others rely on must not be broken.
    pub(super) fn assert_own(&self, fault: &str) {
        assert!(
            !self.node.shared,
            "`{fault}` would hit every test that shares this node: use `Rabbit::start`"
        );
    }

    async fn end(&self, signal: Signal) {
        let Some(vm) = self.node.vm.lock().take() else {
            return;
        };
        process::signal(vm.id(), signal);
        match vm {
            Vm::Anothers(id) => process::ended(id).await,
            Vm::Ours(mut child) => {
                let ended = || {
                    let ended = child.try_wait().is_ok_and(|status| status.is_some());
                    std::future::ready(ended)
                };
                eventually("the node's process ends", BOUND, ended).await;
            }
        }
        eventually("the node's port is closed", BOUND, async || {
            TcpStream::connect(self.amqp_addr()).await.is_err()
        })
        .await;
    }

    fn vm(&self) -> u32 {
        self.pid()
            .unwrap_or_else(|| panic!("{} does not run", self.name()))
    }
}

impl Node {
    /// Makes a command see this node's world and nothing of the caller's RabbitMQ or Erlang.
    pub(super) fn surround(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        let file = |name: &str| self.folder.join(name);
        command
            // Where the virtual machine leaves its dumps when it crashes.
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("LANG", "C.UTF-8")
            .env("HOME", self.home.folder())
            .env("ERL_EPMD_PORT", self.home.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_BASE", &self.folder)
            .env("RABBITMQ_MNESIA_BASE", file("mnesia"))
            .env("RABBITMQ_LOG_BASE", file("log"))
            .env("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", file("generated"))
            .env("RABBITMQ_SCHEMA_DIR", file("schema"))
            // Without this the system's file is read.
            .env("RABBITMQ_CONF_ENV_FILE", file("rabbitmq-env.conf"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", EMULATOR)
            .env("RABBITMQ_CTL_ERL_ARGS", LOOPBACK_ONLY);
    }

    fn launch(&self) -> io::Result<()> {
        let said = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("console"))?;
        let mut command = Command::new(self.home.installation.programs.join("rabbitmq-server"));
        self.surround(&mut command);
        command
            // The script then turns into the virtual machine instead of waiting for it, so that
            // the number of the child is the number to kill.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        self.home.adopt(&mut command);
        *self.vm.lock() = Some(Vm::Ours(command.spawn()?));
        Ok(())
    }

    fn status_at_end(&self) -> io::Result<Option<String>> {
        match &mut *self.vm.lock() {
            Some(Vm::Ours(child)) => Ok(child.try_wait()?.map(|status| status.to_string())),
            Some(Vm::Anothers(_)) | None => Ok(None),
        }
    }

    fn not_started(&self, reason: String) -> Error {
        Error::NotStarted {
            name: self.name.clone(),
            reason,
            log: self.log_tail(30),
        }
    }

    fn log_tail(&self, lines: usize) -> String {
        let log = self.folder.join("log").join(format!("{}.log", self.name));
        let written: Vec<String> = [self.folder.join("console"), log]
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        written[written.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.home.ends_with_us() {
            return;
        }
        if let Some(Vm::Ours(mut child)) = self.vm.get_mut().take() {
            // Also ends a paused process.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const VHOSTS_ASIDE: &str = "\
[V || V <- rabbit_vhost:list_names(), not rabbit_vhost_sup_sup:is_vhost_alive(V)]";

/// The least that makes a node independent of the machine it runs on.
const CONFIGURATION: &str = "\
disk_free_limit.absolute = 1MB
loopback_users = none
";

const LOOPBACK_ONLY: &str = "-kernel inet_dist_use_interface {127,0,0,1}";

const EMULATOR: &str = "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false";
