//! New limits for a container that is created or runs: all of them, or none.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use corten_proto::shim::{FailureKind, Update, Updated};
use corten_sys::process::{self, Child};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{
    group::{self, Group},
    security,
};
use crate::failure::{Result, failure};

const OPERATION: &str = "update the container's limits";
/// Processes that are forked meanwhile have the old value; few are at it at any time.
const ROUNDS: u32 = 10;

/// Changes the limits that `update` names, of the cgroup that init is in. `init` is given where it is a child of this process.
pub(super) fn update(group: &Group, init: Option<&Child>, update: &Update) -> Result<Updated> {
    let limits = group::resources(&update.resources.clone().unwrap_or_default());
    group
        .cgroup()
        .update(&limits)
        .map_err(|error| refused(&error))?;
    let mut warnings = group.missing(&limits);
    // Last, since nothing can go wrong with it: what is not allowed is clamped, and who has ended needs none.
    if let Some(wanted) = update.oom_score_adj {
        set_oom_score_adj(group, init, wanted, &mut warnings);
    }
    Ok(Updated { warnings })
}

fn refused(error: &io::Error) -> corten_proto::shim::Failure {
    let kind = match error.kind() {
        io::ErrorKind::ResourceBusy | io::ErrorKind::InvalidInput => FailureKind::FailureInvalid,
        _ => FailureKind::FailureInternal,
    };
    failure(kind, OPERATION, "", error)
}

/// Every process has its own.
fn set_oom_score_adj(group: &Group, init: Option<&Child>, wanted: i32, warnings: &mut Vec<String>) {
    let mut done = BTreeSet::new();
    let mut told = Vec::new();
    let mut set = |directory: BorrowedFd<'_>| {
        // By its directory: the id may be another process's by now.
        let process = format!("self/fd/{}", directory.as_raw_fd());
        let _ = security::set_oom_score_adj(&process, wanted, &mut told);
    };
    // It may not be in the cgroup yet, or have left it.
    if let Some(init) = init
        && let Ok(directory) = open(init.pid)
        && process::check_unreaped(init.pidfd.as_fd()).is_ok()
    {
        done.insert(init.pid);
        set(directory.as_fd());
    }
    for _ in 0..ROUNDS {
        let mut has_new = false;
        let _ = group.cgroup().each_process(|pid, directory| {
            if done.insert(pid) {
                has_new = true;
                set(directory);
            }
        });
        if !has_new {
            break;
        }
    }
    // The same of each.
    told.truncate(1);
    warnings.append(&mut told);
}

/// The process's directory in /proc, which is never another one's.
fn open(pid: i32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?)
}
