//! The namespaces that a container's processes are in, save for mount and cgroup, whose time comes later.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use corten_proto::shim::{Namespace, Namespaces, namespace::From};
use corten_sys::{ns, process::CloneFlags};
use nix::sched::unshare;

use super::ids;
use crate::failure::{Doing, Result};

/// Which namespaces are new, and which are entered.
#[derive(Debug)]
pub(super) struct Joins {
    /// For clone3.
    pub(super) new: CloneFlags,
    /// After clone3, in the child.
    entered: Vec<(File, CloneFlags)>,
    /// For a sibling of the child, which has nothing of the host any more: others are in there.
    pub(super) pid: Option<OwnedFd>,
    /// When the child is in its cgroup, or the namespace would show another root.
    pub(super) cgroup: bool,
    /// Last of all, when the root is complete.
    pub(super) user: Option<OwnedFd>,
}

impl Joins {
    /// Opens what is to be entered. The paths are pins of ours.
    pub(super) fn open(plan: &Namespaces) -> Result<Self> {
        let cgroup = matches!(from(plan.cgroup.as_ref()), Some(From::New(_)));
        let mut joins = Self {
            new: CloneFlags::empty(),
            entered: Vec::new(),
            pid: None,
            cgroup,
            user: None,
        };
        if let Some(From::Join(path)) = from(plan.user.as_ref()) {
            joins.user = Some(File::open(path).doing("open namespace", path)?.into());
        }
        match from(plan.pid.as_ref()) {
            Some(From::Join(path)) => {
                joins.pid = Some(File::open(path).doing("open namespace", path)?.into());
            }
            Some(From::New(_)) => joins.new |= CloneFlags::CLONE_NEWPID,
            _ => {}
        }
        for (namespace, kind) in [
            (&plan.network, CloneFlags::CLONE_NEWNET),
            (&plan.ipc, CloneFlags::CLONE_NEWIPC),
            (&plan.uts, CloneFlags::CLONE_NEWUTS),
        ] {
            match from(namespace.as_ref()) {
                Some(From::Join(path)) => joins
                    .entered
                    .push((File::open(path).doing("open namespace", path)?, kind)),
                Some(From::New(_)) => joins.new |= kind,
                _ => {}
            }
        }
        Ok(joins)
    }

    /// Enters the joined ones, in the child.
    pub(super) fn enter(&self) -> Result<()> {
        self.entered.iter().try_for_each(|(file, kind)| {
            ns::enter(file.as_fd(), *kind).doing("enter namespace", format!("{kind:?}"))
        })
    }
}

impl Joins {
    /// Has a sibling be born in the joined PID namespace. Children that are to see the host's come before.
    pub(super) fn enter_pid(&self) -> Result<()> {
        let pid = self.pid.as_ref();
        pid.map_or(Ok(()), |pid| {
            ns::enter(pid.as_fd(), CloneFlags::CLONE_NEWPID)
        })
        .doing("enter", "the PID namespace")
    }

    /// Leaves the host's users behind, with a copy of the mount namespace whose mounts can be neither changed nor taken
    /// away from inside (mount_namespaces(7), "Restrictions on mount namespaces").
    pub(super) fn enter_user(&self) -> Result<()> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        ns::enter(user.as_fd(), CloneFlags::CLONE_NEWUSER).doing("enter", "the user namespace")?;
        ids::become_root()?;
        let mut own = CloneFlags::CLONE_NEWNS;
        if self.cgroup {
            // One that belongs to the user namespace, with the same root.
            own |= CloneFlags::CLONE_NEWCGROUP;
        }
        unshare(own).doing("unshare", format!("{own:?}"))
    }
}

fn from(namespace: Option<&Namespace>) -> Option<&From> {
    namespace?.from.as_ref()
}
