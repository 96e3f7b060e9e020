//! Processors that do not fall asleep between two wake-ups.
//!
//! A virtual processor without anything to do goes back to its host, and takes longer to come back than
//! a message takes through a program. Where threads wait for each other, that is what would be
//! measured. The kernel's remedy is to start it with `idle=poll`; here, loops of the idle class
//! (`SCHED_IDLE`) do the same from outside. They give way to everybody at once, and do so for every
//! contender alike.

use std::{
    env::{args, current_exe},
    hint::spin_loop,
    io::{self, Read},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::{available_parallelism, spawn},
};

/// What a program is told to become the loops.
const LOOPS: &str = "--loops";

/// The process of the loops, or 0.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Keeps the processors awake for as long as it lives.
#[derive(Debug)]
pub struct Awake(Child);

impl Awake {
    /// Begins, if that is wanted, and says what holds. The program must call [`became_loops`] first of
    /// all. Without `chrt`, of util-linux, nothing is kept awake.
    pub fn keep_if(wanted: bool) -> Option<Self> {
        let kept = wanted.then(Self::keep);
        match &kept {
            Some(Ok(_)) => println!("Processors are kept awake.\n"),
            Some(Err(error)) => println!("Processors may fall asleep: no chrt ({error}).\n"),
            None => println!("Processors may fall asleep.\n"),
        }
        kept?.ok()
    }

    fn keep() -> io::Result<Self> {
        // The loops end with the pipe.
        let child = Command::new("chrt")
            .args(["--idle", "0"])
            .arg(current_exe()?)
            .arg(LOOPS)
            .stdin(Stdio::piped())
            .spawn()?;
        PROCESS.store(child.id(), Ordering::Relaxed);
        Ok(Self(child))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        PROCESS.store(0, Ordering::Relaxed);
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Becomes the loops if the program was told so; returns then when nobody wants them any more.
pub fn became_loops() -> bool {
    if args().nth(1).as_deref() != Some(LOOPS) {
        return false;
    }
    for _ in 0..count() {
        spawn(|| {
            loop {
                spin_loop();
            }
        });
    }
    let _ = io::stdin().read_to_end(&mut Vec::new());
    true
}

/// The process of the loops, and how many there are, if there are any.
pub(crate) fn loops() -> Option<(u32, usize)> {
    match PROCESS.load(Ordering::Relaxed) {
        0 => None,
        process => Some((process, count())),
    }
}

/// One for each processor.
fn count() -> usize {
    available_parallelism().map_or(1, usize::from)
}
