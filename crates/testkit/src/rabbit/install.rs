//! Where RabbitMQ is on this machine, and how it gets there.

use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::Mutex;

/// The programs of an installed RabbitMQ.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The folder of `rabbitmq-server` and `rabbitmqctl`.
    ///
    /// Not `/usr/sbin`: the wrappers there change the user and serve the system's node.
    pub(super) programs: PathBuf,
}

/// Why there is no RabbitMQ; says how to get it.
#[derive(Debug, thiserror::Error)]
#[error(
    "no RabbitMQ: {reason}. Install it with \
     `apt-get install -y --no-install-recommends rabbitmq-server` or your system's means, so that \
     {PROGRAMS}/rabbitmq-server exists, or name its folder in {FOLDER_VARIABLE}"
)]
pub struct NotInstalled {
    reason: String,
}

const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// Names another folder that holds `rabbitmq-server` and `rabbitmqctl`.
const FOLDER_VARIABLE: &str = "WHARF_RABBITMQ_BIN";

/// Finds RabbitMQ, or installs it where it may: as root, with apt.
///
/// Only the programs are wanted: the package is kept from starting a node of the system.
///
/// # Errors
///
/// [`NotInstalled`] where RabbitMQ is missing and cannot be installed.
pub fn install() -> Result<Installation, NotInstalled> {
    /// Held while installing: the tests of one process must not race for apt.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();

    let chosen = std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from);
    let programs = chosen.as_deref().unwrap_or(Path::new(PROGRAMS));
    if chosen.is_none() && !has_server(programs) {
        install_with_apt().map_err(|reason| NotInstalled { reason })?;
    }
    if !has_server(programs) {
        let folder = programs.display();
        let reason = format!("{folder} holds no rabbitmq-server");
        return Err(NotInstalled { reason });
    }
    Ok(Installation {
        programs: programs.to_owned(),
    })
}

fn has_server(programs: &Path) -> bool {
    programs.join("rabbitmq-server").is_file()
}

/// A policy of 101 tells package scripts to start no service (Debian Policy 9.3.3,
/// `invoke-rc.d(8)`). A policy that is there already is somebody's choice and stays.
const WITHOUT_A_SYSTEM_NODE: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
get() {
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends rabbitmq-server
}
get || { apt-get -o DPkg::Lock::Timeout=300 update && get; }
"#;

fn install_with_apt() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it is not installed, and only root may install it".to_owned());
    }
    if !Path::new("/usr/bin/apt-get").is_file() {
        return Err("it is not installed, and there is no apt-get to install it with".to_owned());
    }
    eprintln!("RabbitMQ is not installed: installing the package rabbitmq-server with apt-get");
    let output = Command::new("sh")
        .args(["-c", WITHOUT_A_SYSTEM_NODE])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .map_err(|error| format!("apt-get did not start: {error}"))?;
    if output.status.success() {
        eprintln!("RabbitMQ is installed; no node of the system was started");
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.is_empty());
    Err(format!("apt-get failed: {}", last.unwrap_or_default()))
}
