//! Finds and ends shims that no connection leads to.

use std::{fs, io::Read};

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
/// Reads the whole of /proc: for recovery and for undoing, not for the path of a pod.
pub(crate) fn kill(args: &[&str]) -> usize {
    let Ok(processes) = fs::read_dir("/proc") else {
        return 0;
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| kill_if_shim(*pid, args))
        .count()
}

/// The pidfd is taken before the check, so that a reused pid is never killed.
fn kill_if_shim(pid: i32, args: &[&str]) -> bool {
    if !is_shim(pid, args) {
        return false;
    }
    let Some(target) = Pid::from_raw(pid) else {
        return false;
    };
    let Ok(fd) = pidfd_open(target, PidfdFlags::empty()) else {
        return false;
    };
    let killed = is_shim(pid, args) && pidfd_send_signal(&fd, Signal::KILL).is_ok();
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
