//! Killing everything in a cgroup.
//!
//! v2 does it in one write. On v1 a process may fork between the reading of the list and the signal, so the cgroup is
//! frozen meanwhile and looked at again after every thaw: a task that attaches itself to a frozen cgroup is stopped
//! before it is in the list.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::Cgroup;

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
    let Some(dir) = cgroup.v2().or_else(|| cgroup.v1("freezer")) else {
        return Ok(());
    };
    for pid in processes(&dir)?.into_iter().filter_map(Pid::from_raw) {
        // One that has ended does not need to know.
        let _ = kill_process(pid, signal);
    }
    Ok(())
}

/// Kills until nothing is left; from the second round on frozen, so that nothing can fork away from the list.
fn kill_all(dir: &Path) -> io::Result<()> {
    let mut pause = FIRST_PAUSE;
    for round in 0..ROUNDS {
        if processes(dir)?.is_empty() {
            return Ok(());
        }
        if round > 0 {
            set_state(dir, "FROZEN");
        }
        for pid in processes(dir)? {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if round > 0 {
            set_state(dir, "THAWED");
        }
        sleep(pause);
        pause = (pause * 2).min(PAUSE);
    }
    // Killed, and not gone: something in the kernel holds them. Removing the cgroup will say so.
    Ok(())
}

fn set_state(dir: &Path, state: &str) {
    let _ = fs::write(dir.join("freezer.state"), state);
}

/// The processes of the cgroup and of those below it, without those that have ended and wait to be reaped.
pub(super) fn processes(dir: &Path) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let text = match fs::read_to_string(dir.join("cgroup.procs")) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                continue;
            }
            result => result?,
        };
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        let children = fs::read_dir(&dir).into_iter().flatten().flatten();
        open.extend(
            children
                .map(|child| child.path())
                .filter(|path| path.is_dir()),
        );
    }
    Ok(found)
}
