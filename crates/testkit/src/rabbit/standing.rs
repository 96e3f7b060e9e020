//! Nodes that several programs use: one that outlives the program that starts it, for people at
//! work, and one that a program offers to others while it runs.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::process::Signal;

use super::home::{Error, Home};
use super::node::{Rabbit, Running};
use super::process;

const RECORD: &str = "node";
/// The only name such a node has.
const NAME: &str = "rabbit@localhost";

/// What a standing node's folder tells about it.
struct Record {
    epmd: u32,
    epmd_port: u16,
    vm: u32,
    port: u16,
}

/// Starts a node that stays, in `folder`, or finds the one that runs there. Gives a handle under
/// the rules of a shared node. What was in its queues before a [`down`] is there again.
///
/// # Errors
///
/// [`Error`] says what is missing, or what the node said before it ended.
///
/// # Panics
///
/// When an earlier node of this folder does not end.
pub async fn up(folder: &Path) -> Result<Rabbit, Error> {
    fs::create_dir_all(folder)?;
    let folder = &folder.canonicalize()?;
    let _alone = lock(folder).await?;
    if let Some(rabbit) = attach(folder).await? {
        return Ok(rabbit);
    }
    end_recorded(folder).await?;

    let home = Home::standing(folder).await?;
    let rabbit = Rabbit::prepare(Arc::new(home), NAME, "")?;
    rabbit.launch()?;
    // Before it serves: if this program is stopped in between, `down` knows what to end.
    rabbit.offer()?;
    if let Err(error) = rabbit.serves().await {
        end_recorded(folder).await?;
        return Err(error);
    }
    Ok(rabbit.share())
}

/// Ends the node that [`up`] started in this folder, and nothing else. Says whether there was one.
///
/// # Errors
///
/// When the folder cannot be read or changed.
pub async fn down(folder: &Path) -> io::Result<bool> {
    if !folder.join(RECORD).exists() {
        return Ok(false);
    }
    let folder = &folder.canonicalize()?;
    let _alone = lock(folder).await?;
    end_recorded(folder).await
}

impl Rabbit {
    /// Lets other programs use this node for as long as it runs: they find it when
    /// [`super::SHARED_NODE`] in their environment names the folder that this gives.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    ///
    /// # Panics
    ///
    /// When the node does not run, or is one of a cluster.
    pub fn offer(&self) -> io::Result<&Path> {
        assert_eq!(self.name(), NAME, "a node of a cluster cannot be offered");
        let home = &self.node.home;
        let record = Record {
            epmd: home.epmd,
            epmd_port: home.epmd_port,
            vm: self.pid().expect("a node that is offered runs"),
            port: self.amqp_addr().port(),
        };
        record.write(home.folder())?;
        Ok(home.folder())
    }
}

/// A handle to the node that runs in this folder.
pub(super) async fn attach(folder: &Path) -> Result<Option<Rabbit>, Error> {
    let Some(record) = Record::read(folder) else {
        return Ok(None);
    };
    if !record.vm_runs(folder) {
        return Ok(None);
    }
    let home = Home::of_another(folder, record.epmd, record.epmd_port).await?;
    let running = Running {
        name: NAME.to_owned(),
        port: record.port,
        vm: record.vm,
    };
    Ok(Some(Rabbit::of_another(home, running)))
}

/// One program at a time brings a folder's node up or down. Ends with the value.
async fn lock(folder: &Path) -> io::Result<File> {
    let file = File::create(folder.join("lock"))?;
    let locking = tokio::task::spawn_blocking(|| file.lock().map(|()| file));
    locking.await.expect("bug: locking a file panicked")
}

async fn end_recorded(folder: &Path) -> io::Result<bool> {
    let Some(record) = Record::read(folder) else {
        return Ok(false);
    };
    let ran = record.vm_runs(folder);
    if ran {
        // In order, so that its queues are there when it comes up again.
        process::signal(record.vm, Signal::TERM);
        process::ended(record.vm).await;
    }
    if record.epmd_runs() {
        process::signal(record.epmd, Signal::KILL);
    }
    fs::remove_file(folder.join(RECORD))?;
    Ok(ran)
}

impl Record {
    fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(RECORD)).ok()?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        };
        Some(Self {
            epmd: field("epmd")?.parse().ok()?,
            epmd_port: field("epmd_port")?.parse().ok()?,
            vm: field("vm")?.parse().ok()?,
            port: field("port")?.parse().ok()?,
        })
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        let Self {
            epmd,
            epmd_port,
            vm,
            port,
        } = self;
        fs::write(
            folder.join(RECORD),
            format!("epmd={epmd}\nepmd_port={epmd_port}\nvm={vm}\nport={port}\n"),
        )
    }

    /// The virtual machine names its home on its command line.
    fn vm_runs(&self, folder: &Path) -> bool {
        let home = format!("-home {}", folder.display());
        !process::is_gone(self.vm) && process::was_started_with(self.vm, &home)
    }

    fn epmd_runs(&self) -> bool {
        let port = format!("epmd -port {}", self.epmd_port);
        process::was_started_with(self.epmd, &port)
    }
}
