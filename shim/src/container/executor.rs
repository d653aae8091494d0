//! The two ways to run a container, behind one interface: this program itself, or an external OCI runtime.

use std::{io, os::fd::OwnedFd};

use corten_proto::shim::{Create, Created, Update, Updated};
use corten_sys::{cgroup::Oom, process::Child};

use super::{Container, Ends, Execed, Report, Stdio, external::External};
use crate::failure::{Result, invalid, phase};

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a shim has one")]
pub(crate) enum Executor {
    Builtin(Container),
    External(External),
}

/// Begins to make the container, whose report tells how far it is. After a failure nothing is left.
pub(crate) fn create(
    request: Create,
    template: &OwnedFd,
    stdio: Stdio,
) -> Result<(Executor, Report)> {
    let plan = request
        .plan
        .ok_or_else(|| invalid("create", "plan", "is missing"))?;
    match request.oci {
        None => {
            let (container, report) = super::spawn(plan, template, stdio)?;
            Ok((Executor::Builtin(container), report))
        }
        Some(oci) => {
            let (external, report) = External::spawn(plan, oci, stdio)?;
            Ok((Executor::External(external), report))
        }
    }
}

impl Executor {
    /// The process whose end is the container's, with its status: its init, or the monitor of an external runtime. Reaping it
    /// is the caller's.
    pub(crate) fn leader(&self) -> &Child {
        match self {
            Self::Builtin(container) => container.init.child(),
            Self::External(external) => external.leader(),
        }
    }

    /// Whether this is the id of its leader, or of the one that makes it.
    pub(crate) fn has(&self, pid: i32) -> bool {
        match self {
            Self::Builtin(container) => container.init.has(pid),
            Self::External(external) => external.leader().pid == pid,
        }
    }

    /// Takes over a leader that another has made. Returns the latter, which has ended.
    pub(crate) fn succeed(&mut self) -> io::Result<Option<Child>> {
        match self {
            Self::Builtin(container) => container.init.succeed(),
            Self::External(_) => Ok(None),
        }
    }

    /// The container's first process, where there is one.
    pub(crate) fn init(&self) -> Option<&Child> {
        match self {
            Self::Builtin(container) => Some(container.init.child()),
            Self::External(external) => external.init(),
        }
    }

    /// Init's process id; 0 where there is none.
    pub(crate) fn init_pid(&self) -> i32 {
        self.init().map_or(0, |init| init.pid)
    }

    /// Gives an external runtime its configuration.
    pub(crate) fn configure(&mut self, config: &[u8]) -> Result<()> {
        match self {
            Self::Builtin(_) => Err(phase("configure", "the container has no external runtime")),
            Self::External(external) => external.configure(config),
        }
    }

    /// Keeps what was told of the container, and adds what only this side knows.
    pub(crate) fn set_created(&mut self, created: &mut Created) -> Result<()> {
        match self {
            Self::Builtin(container) => container.set_created(created)?,
            Self::External(external) => external.set_created(created)?,
        }
        created.init_pid = self.init_pid();
        Ok(())
    }

    pub(crate) fn signal(&self, number: i32) -> io::Result<()> {
        match self {
            Self::Builtin(container) => container.init.signal(number),
            Self::External(external) => external.signal(number),
        }
    }

    /// Changes its limits, of all processes and those to come.
    pub(crate) fn update(&mut self, update: &Update) -> Result<Updated> {
        match self {
            Self::Builtin(container) => container.update(update),
            Self::External(external) => external.update(update),
        }
    }

    /// Starts a further process.
    pub(crate) fn exec(&mut self, args: Vec<Vec<u8>>, ends: Ends) -> Result<Execed> {
        match self {
            Self::Builtin(container) => super::exec(container, args, ends),
            Self::External(external) => external.exec(&args, ends),
        }
    }

    /// Kills every process of the container. What survives is to be killed again.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        match self {
            Self::Builtin(container) => container.kill(),
            Self::External(external) => external.kill(),
        }
    }

    /// What the kernel has killed in the container for want of memory; nothing after [`Self::remove`].
    pub(crate) fn oom(&self) -> Option<Oom> {
        match self {
            Self::Builtin(container) => container.oom(),
            Self::External(external) => external.oom(),
        }
    }

    /// The path of its cgroup.
    pub(crate) fn cgroup(&self) -> &str {
        match self {
            Self::Builtin(container) => container.cgroup(),
            Self::External(external) => external.cgroup(),
        }
    }

    /// Whether a seccomp filter is in its way.
    pub(crate) fn has_filter(&self) -> bool {
        match self {
            Self::Builtin(container) => container.has_filter(),
            Self::External(external) => external.has_filter(),
        }
    }

    /// Removes the cgroup and what is below it, once the container has ended.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match self {
            Self::Builtin(container) => container.remove_cgroup(),
            Self::External(external) => external.remove(),
        }
    }
}
