//! Finds and ends shims that no connection leads to.

use std::{fs, io::Read, os::unix::fs::MetadataExt, path::Path};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// One that hangs in the kernel dies when it can.
const DEATH: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// Kills every `corten-shim` that was started with `args`, and waits for their ends. Returns how many there were.
///
/// Reads the whole of /proc: for recovery and for undoing, not for the path of a pod. Arguments are in a process's memory,
/// whose lock a container can keep from others for ever: only processes outside of containers' PID namespaces are asked.
pub(crate) fn kill(args: &[&str]) -> usize {
    let own = pid_namespace("/proc/self/ns/pid");
    kill_each(|pid| own.is_some() && pid_namespace(of(pid)) == own && is_shim(pid, args))
}

/// Kills every process of the PID namespace that is pinned on `pin`, where there is one, and waits for their ends.
pub(crate) fn kill_namespace(pin: &Path) -> usize {
    let pinned = pid_namespace(pin);
    if pinned.is_none() || pinned == pid_namespace("/proc/self/ns/pid") {
        return 0;
    }
    kill_each(|pid| pid_namespace(of(pid)) == pinned)
}

fn of(pid: i32) -> String {
    format!("/proc/{pid}/ns/pid")
}

/// What tells one namespace from another (namespaces(7)). A pin on which nothing is mounted is no process's.
fn pid_namespace(path: impl AsRef<Path>) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn kill_each(is_meant: impl Fn(i32) -> bool) -> usize {
    let Ok(processes) = fs::read_dir("/proc") else {
        return 0;
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| kill_if(*pid, &is_meant))
        .count()
}

/// The pidfd is taken before the check, so that a reused pid is never killed.
fn kill_if(pid: i32, is_meant: impl Fn(i32) -> bool) -> bool {
    if !is_meant(pid) {
        return false;
    }
    let Some(target) = Pid::from_raw(pid) else {
        return false;
    };
    let Ok(fd) = pidfd_open(target, PidfdFlags::empty()) else {
        return false;
    };
    let killed = is_meant(pid) && pidfd_send_signal(&fd, Signal::KILL).is_ok();
    if killed {
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&DEATH));
    }
    killed
}

fn is_shim(pid: i32, args: &[&str]) -> bool {
    let Ok(file) = fs::File::open(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut line = Vec::new();
    if file.take(4096).read_to_end(&mut line).is_err() {
        return false;
    }
    let mut words = line.split(|byte| *byte == 0);
    words.next() == Some(b"corten-shim")
        && args.iter().all(|arg| words.next() == Some(arg.as_bytes()))
}
