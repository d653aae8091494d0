//! Namespaces: pinned on files, and entered.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
};

use crate::process::{self, Child};

/// Binds the calling thread's namespace `name` ("net", "ipc", "uts"; namespaces(7)) onto the new file `path`.
pub fn pin(name: &str, path: &Path) -> io::Result<()> {
    pin_file(Path::new(&format!("/proc/thread-self/ns/{name}")), path)
}

/// Binds the namespace file `source` onto the new file `path`.
pub fn pin_file(source: &Path, path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?;
    let none: Option<&str> = None;
    Ok(mount(Some(source), path, none, MsFlags::MS_BIND, none)?)
}

/// Opens the namespace `name` of a process by its number in this process's /proc, and proves by its pidfd that the number
/// was its own all the time.
pub fn of(process: &Child, name: &str) -> io::Result<OwnedFd> {
    let file = File::open(format!("/proc/{}/ns/{name}", process.pid))?;
    // No number is given again before its process is reaped.
    process::check_unreaped(process.pidfd.as_fd())?;
    Ok(file.into())
}

/// Enters the namespace that is pinned on `path`, which has to be of the type `kind`.
pub fn enter_path(path: &Path, kind: CloneFlags) -> io::Result<()> {
    Ok(setns(File::open(path)?, kind)?)
}

/// Enters namespaces of the kinds `kinds`, from a namespace descriptor or from a pidfd (setns(2)).
pub fn enter(fd: BorrowedFd<'_>, kinds: CloneFlags) -> io::Result<()> {
    Ok(setns(fd, kinds)?)
}
