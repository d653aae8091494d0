//! What the child does alike for a container's init and for an exec: from a root to its program.
//!
//! A child never returns: not to the shim's loop, whose copy it holds, and not by a drop of what that loop owns.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use corten_proto::shim::{Failure, FailureKind, Identity, Process};
use corten_sys::{process, root::Root};
use nix::libc;
use rustix::{
    fs::{Gid, Mode, OFlags, Uid, fchown, fcntl_setfl, fstat, mkdirat},
    pipe::{PipeFlags, pipe_with},
    process::{fchdir, setsid, umask},
};

use super::{
    Stdio,
    birth::Maker,
    ids::Ids,
    label,
    program::Program,
    report::Teller,
    rootfs,
    security::{self, Privileges},
};
use crate::failure::{Doing, Result, failure, invalid};

/// The umask of a container's process, as other runtimes have it.
const UMASK: Mode = Mode::from_raw_mode(0o022);

/// Runs `stages`, which can only fail, and tells why.
pub(super) fn run(teller: &Teller, stages: impl FnOnce() -> Failure) -> ! {
    teller.fail(stages());
    process::exit_now(127)
}

/// The first steps, in the host's namespaces.
pub(super) fn begin(process: &Process, warnings: &mut Vec<String>) -> Result<()> {
    corten_sys::prctl::set_undumpable().doing("prctl", "PR_SET_DUMPABLE")?;
    process::reset_signals().doing("reset", "signals")?;
    process::reset_affinity().doing("reset", "the affinity to processors")?;
    setsid().doing("setsid", "process")?;
    // Modes of what is made are as they are said.
    umask(Mode::empty());
    label::set_for_exec(process)?;
    security::set_oom_score_adj("self", process.oom_score_adj, warnings)
}

/// Makes the working directory below the root where it is missing. To be called before any process of the container runs:
/// what runs can change every link on the way.
///
/// The directory is `owner`'s, given as numbers of the host, from the moment on when it is there: nothing is chowned, which
/// could be something else by then. What lies behind a link of the image is made as root's, as other runtimes have it.
pub(super) fn make_cwd(root: &Root, cwd: &str, ids: &Ids, owner: (Uid, Gid)) -> Result<()> {
    let path = absolute(cwd)?;
    match root.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result.map(drop).doing("open working directory", cwd),
    }
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
        root.make_dir_all(parent, rootfs::DIRECTORY)
            .doing("make working directory", cwd)?;
        if let Ok(parent) = root.open_without_links(parent) {
            ids.make_files_as(owner)?;
            // What is there by now, or cannot be the user's, is looked at below.
            let _ = mkdirat(&parent, name, rootfs::DIRECTORY);
            ids.make_files_as_root()?;
        }
    }
    root.make_dir_all(path, rootfs::DIRECTORY)
        .map(drop)
        .doing("make working directory", cwd)
}

/// Enters the working directory below the root. A magic link such as /proc/self/fd/7 would lead to where the host is.
fn enter_cwd(root: &Root, cwd: &str) -> Result<()> {
    let path = absolute(cwd)?;
    let directory = root
        .open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
        .doing("open working directory", cwd)?;
    fchdir(directory).doing("enter working directory", cwd)
}

fn absolute(cwd: &str) -> Result<&Path> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    if cwd.starts_with('/') {
        Ok(Path::new(cwd))
    } else {
        Err(invalid(
            "open working directory",
            cwd,
            "it has to begin with /",
        ))
    }
}

/// Becomes the user, in the working directory. As runc does, root enters it, which may where the user may not, and where
/// root may not, as on some network file systems, the user.
pub(super) fn settle(
    privileges: &Privileges,
    identity: &Identity,
    root: &Root,
    cwd: &str,
) -> Result<()> {
    let entered = enter_cwd(root, cwd);
    privileges.become_user(identity)?;
    match entered {
        Err(failure) if matches!(failure.errno, libc::EACCES | libc::EPERM) => {
            enter_cwd(root, cwd)?;
        }
        entered => entered?,
    }
    umask(UMASK);
    Ok(())
}

/// Failure of an exec whose working directory the container may have changed: the exec's own, not a fault of ours.
pub(super) fn is_the_containers(mut failure: Failure) -> Failure {
    if matches!(
        failure.errno,
        libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES
    ) {
        failure.kind = FailureKind::FailureExec.into();
    }
    failure
}

/// Lets `user`, a number of the host, open the streams by their path, as in /dev/stdout. What cannot be chowned is not
/// ours.
pub(super) fn give_streams(stdio: &Stdio, user: Uid) {
    if user.is_root() {
        return;
    }
    let streams = [
        stdio.stdin.as_ref(),
        Some(&stdio.stdout),
        Some(&stdio.stderr),
    ];
    for stream in streams.into_iter().flatten() {
        let _ = fchown(stream, Some(user), None);
    }
}

/// Makes descriptors 0 to 2 of `stdio`. Without stdin it is the null device of `root`.
pub(super) fn take_streams(root: &Root, stdio: &Stdio) -> Result<()> {
    let null;
    let stdin = match &stdio.stdin {
        Some(stdin) => stdin.as_fd(),
        None => {
            null = empty_input(root)?;
            null.as_fd()
        }
    };
    for (number, stream) in (0..).zip([stdin, stdio.stdout.as_fd(), stdio.stderr.as_fd()]) {
        process::dup_to(stream, number).doing("dup2", number)?;
    }
    Ok(())
}

/// The container's null device. Where the container has put something else, which could wait for a writer or be a file of
/// anything, a pipe that nobody writes to: it reads the same.
fn empty_input(root: &Root) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(null) = root.open_at(Path::new("/dev/null"), flags, Mode::empty())
        && rootfs::is_null(&fstat(&null).doing("stat", "/dev/null")?)
    {
        fcntl_setfl(&null, OFlags::empty()).doing("set flags", "of /dev/null")?;
        return Ok(null);
    }
    let (reader, _writer) = pipe_with(PipeFlags::CLOEXEC).doing("pipe", "for stdin")?;
    Ok(reader)
}

/// Closes everything but the streams and `kept`: a program named as /proc/self/fd/N must not reach the host through
/// what the shim has open. Only what is never dropped may be open by now.
pub(super) fn close_descriptors(kept: &OwnedFd) -> Result<()> {
    process::close_all_but(&[kept.as_fd()]).doing("close_range", "descriptors")
}

/// Gives up privileges and becomes the program, by a sibling where there is a `maker`. Returns only why it could not.
pub(super) fn execute(
    privileges: &Privileges,
    process: &Process,
    program: &Program,
    maker: Option<Maker<'_>>,
) -> Failure {
    let become_it = || {
        let unsealed = privileges.give_up(process)?;
        if let Some(maker) = maker {
            maker.make()?;
        }
        privileges.seal(process, unsealed)
    };
    match become_it() {
        Ok(()) => program.execute(),
        Err(failure) => failure,
    }
}

/// ESRCH and, from clone into a PID namespace whose init is dead, ENOMEM mean that there is no container any more.
pub(super) fn gone_or(operation: &str, error: &io::Error) -> Failure {
    let mut failure = failure(
        FailureKind::FailureInternal,
        operation,
        "of the container",
        error,
    );
    if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOMEM)) {
        failure.kind = FailureKind::FailurePhase.into();
        failure.hint = "the container's init has ended".into();
    }
    failure
}
