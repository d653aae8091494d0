//! Killing everything in a cgroup.
//!
//! v2 does it in one write. On v1 a process may fork between the reading of the list and the signal, so the cgroup is
//! frozen meanwhile and looked at again after every thaw: a task that attaches itself to a frozen cgroup is stopped
//! before it is in the list. Ids are never signalled: see [`members`](super::members).

use std::{fs, io, os::fd::AsFd, path::Path, thread::sleep, time::Duration};

use rustix::process::{Signal, pidfd_send_signal};

use super::{Cgroup, members};
use crate::process;

const ROUNDS: u32 = 100;
/// Most ends take less than the first, and it grows to the second.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const PAUSE: Duration = Duration::from_millis(4);

pub(super) fn kill(cgroup: &Cgroup<'_>) -> io::Result<()> {
    if let Some(dir) = cgroup.v2() {
        match fs::write(dir.join("cgroup.kill"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // A privileged container can leave its v2 cgroup, so the others are looked at, too.
    match cgroup.v1("freezer") {
        Some(dir) => kill_all(&dir),
        None => Ok(()),
    }
}

/// Signals every process once. One that is forked meanwhile may be passed over.
pub(super) fn signal(cgroup: &Cgroup<'_>, signal: Signal) -> io::Result<()> {
    match cgroup.v2().or_else(|| cgroup.v1("freezer")) {
        Some(dir) => send(&dir, signal),
        None => Ok(()),
    }
}

fn send(dir: &Path, signal: Signal) -> io::Result<()> {
    members::each(dir, process::open, |pidfd| {
        // A process that has ended does not need to know.
        let _ = pidfd_send_signal(pidfd.as_fd(), signal);
    })
}

/// Kills until nothing is left; from the second round on frozen, so that nothing can fork away from the list.
fn kill_all(dir: &Path) -> io::Result<()> {
    let mut pause = FIRST_PAUSE;
    for round in 0..ROUNDS {
        if members::list(dir)?.is_empty() {
            return Ok(());
        }
        if round > 0 {
            set_state(dir, "FROZEN");
        }
        let sent = send(dir, Signal::KILL);
        if round > 0 {
            thaw(dir);
        }
        sent?;
        sleep(pause);
        pause = (pause * 2).min(PAUSE);
    }
    // Killed, and not gone: something in the kernel holds them. Removing the cgroup will say so.
    Ok(())
}

/// Lets what was killed end. A container may have frozen cgroups that it has made in its own: a v1 cgroup stays frozen by its
/// own state when its parent is thawed (the kernel's freezer-subsystem.rst).
fn thaw(dir: &Path) {
    for dir in members::tree(dir) {
        set_state(&dir, "THAWED");
    }
}

fn set_state(dir: &Path, state: &str) {
    let _ = fs::write(dir.join("freezer.state"), state);
}
