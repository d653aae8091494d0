//! Ends processes of an earlier daemon, or shims that no connection leads to, by looking for them.
//!
//! A process is proved by its pidfd, which is taken first: what is then seen of its number is its own, unless it was reaped
//! meanwhile, and then its pidfd kills nobody. Containers' processes can have any arguments, and are never in the daemon's
//! mount namespace, which a shim is in as long as it is one.

use std::{
    fs,
    io::{self, Read},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use corten_sys::process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// One that hangs in the kernel dies when it can.
const DEATH: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// Kills every `corten-shim` that was started with `args`, and waits for their ends.
///
/// Reads the whole of /proc: for recovery and for undoing, not for the path of a pod.
///
/// # Errors
/// TimedOut when one does not end.
pub(crate) fn kill(args: &[&str]) -> io::Result<()> {
    let own = OwnMounts::find()?;
    kill_all(|pid| own.are_of(pid) && is_shim(pid, args))
}

/// The daemon's mount namespace.
///
/// Arguments and environment are in a process's memory, whose lock a process of a container can keep from others for ever,
/// be its PID namespace the host's (proc_pid_cmdline(5)). So only those that have the daemon's mounts are asked, which a
/// container never has.
#[derive(Debug)]
pub(crate) struct OwnMounts(PathBuf);

impl OwnMounts {
    pub(crate) fn find() -> io::Result<Self> {
        fs::read_link("/proc/self/ns/mnt").map(Self)
    }

    /// Whether the process has the same mounts.
    pub(crate) fn are_of(&self, pid: i32) -> bool {
        fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|its| its == self.0)
    }
}

/// Kills the init of the PID namespace that is pinned on `pin`, and everything in there with it.
///
/// # Errors
/// TimedOut when it does not end.
pub(crate) fn kill_init(pin: &Path) -> io::Result<()> {
    match pid_namespace(pin) {
        Ok(namespace) => kill_all(|pid| is_in(pid, namespace) && is_init(pid)),
        // It is not pinned yet, or no more.
        Err(_) => Ok(()),
    }
}

fn kill_all(fits: impl Fn(i32) -> bool) -> io::Result<()> {
    let mut all = Ok(());
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
            all = all.and(kill_if(pid, &fits));
        }
    }
    all
}

/// Kills the process `pid` if it `fits`, and waits for its end. The pidfd is taken before the check, so that a reused pid is
/// never killed.
///
/// # Errors
/// TimedOut when it does not end.
pub(crate) fn kill_if(pid: i32, fits: impl Fn(i32) -> bool) -> io::Result<()> {
    // A first look spares most of them the rest.
    if !fits(pid) {
        return Ok(());
    }
    let Ok(pidfd) = process::open(pid) else {
        // It has ended.
        return Ok(());
    };
    if !fits(pid) || process::check_unreaped(pidfd.as_fd()).is_err() {
        return Ok(());
    }
    process::kill(pidfd.as_fd())?;
    match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&DEATH))? {
        0 => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("process {pid} does not end"),
        )),
        _ => Ok(()),
    }
}

/// Device and inode of a PID namespace's file.
///
/// # Errors
/// When it is another file, as a pin before anything is pinned on it.
fn pid_namespace(path: &Path) -> io::Result<(u64, u64)> {
    let (file, own) = (fs::metadata(path)?, fs::metadata("/proc/self/ns/pid")?);
    match file.dev() == own.dev() {
        true => Ok((file.dev(), file.ino())),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn is_in(pid: i32, namespace: (u64, u64)) -> bool {
    let path = format!("/proc/{pid}/ns/pid");
    pid_namespace(Path::new(&path)).is_ok_and(|found| found == namespace)
}

/// Whether it is process 1 of its PID namespace (proc_pid_status(5), NSpid).
fn is_init(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.and_then(|numbers| numbers.split_whitespace().last()) == Some("1")
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
