//! From a plan to a container whose init waits before execve, its start, and further processes in it.
//!
//! ```text
//!   shim                                     child
//!   make the v2 cgroup
//!   clone3 (new PID namespace) ------------> open what the plan names on the host: volumes, devices, overlay
//!   make the v1 cgroups, set limits
//!   go ahead ------------------------------> attach to the v1 cgroups
//!                                            enter the template, build the root, limits, pivot
//!                                            enter the user namespace and a locked copy of the mounts
//!                                            standard streams, user
//!                         <----------------- Created, or Failure
//!   go ahead ------------------------------> seccomp, capabilities, execve
//!                         <----------------- end of file: execve has succeeded; or Failure
//! ```
//!
//! Where the PID namespace is not its own, the child has made a sibling in there before it execs ([`birth`]), and so has
//! a further process.
//!
//! Both ends talk over one SOCK_SEQPACKET pair, `report`: a message is a whole packet. Only the child touches
//! paths that a user named, so that a dead volume blocks nobody else.

mod birth;
mod child;
mod exec;
mod executor;
mod external;
mod filter;
mod group;
mod ids;
mod init;
mod keyring;
mod label;
mod namespaces;
mod program;
mod report;
mod rootfs;
mod security;
mod terminal;
mod update;
mod user;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use corten_proto::shim::{Created, Identity, Plan, Process, Update, Updated};
use corten_sys::{
    cgroup::Oom,
    process::{self, CloneFlags, Cloned, SingleThreaded},
    sibling::Slot,
};

use self::{
    birth::{Birth, Maker},
    exec::{Stage, Subgroup},
    group::Group,
    ids::Ids,
    init::Init,
    namespaces::Joins,
};
pub(crate) use self::{
    executor::{Executor, create},
    report::{Report, Told},
    rootfs::open_overlay,
};
use crate::failure::{Doing, Result, invalid};

/// What a further process has for standard streams.
#[derive(Debug)]
pub(crate) enum Ends {
    Streams(Stdio),
    /// A terminal, whose master goes over this socket.
    Terminal(OwnedFd),
}

/// A process's ends of its standard streams. No `stdin` is the container's /dev/null. None is used with a terminal.
#[derive(Debug)]
pub(crate) struct Stdio {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A container from the birth of its init on.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its first process; reaping it is the caller's.
    pub(crate) init: Birth,
    proof: SingleThreaded,
    group: Group,
    id: String,
    process: Process,
    identity: Identity,
    ids: Ids,
    home: String,
    execs: u64,
}

/// A further process in a container.
#[derive(Debug)]
pub(crate) struct Execed {
    pub(crate) birth: Birth,
    pub(crate) report: Report,
    subgroup: Subgroup,
}

/// Makes the cgroups and clones init, which goes on by itself. After a failure nothing is left.
pub(crate) fn spawn(plan: Plan, template: &OwnedFd, stdio: Stdio) -> Result<(Container, Report)> {
    let missing = |what| move || invalid("read the plan", what, "is missing");
    let process = plan.process.as_ref().ok_or_else(missing("process"))?;
    let joins = Joins::open(plan.namespaces.as_ref().ok_or_else(missing("namespaces"))?)?;
    let ids = Ids::of(&plan);
    let proof = SingleThreaded::verify().doing("clone", "init")?;
    let slot = joins.pid.as_ref().map(|_| Slot::new());
    let slot = slot.transpose().doing("share memory", "with init")?;
    let (ours, theirs) = match &slot {
        Some(_) => report::of_maker()?,
        None => report::of_init()?,
    };
    let cgroup = plan.cgroup.as_ref().ok_or_else(missing("cgroup"))?;
    let mut group = Group::create(cgroup)?;
    let cloned = group.open_v2().and_then(|v2| {
        process::clone(&proof, joins.new, v2.as_ref().map(AsFd::as_fd)).doing("clone3", "init")
    });
    let made = match cloned {
        Ok(Cloned::Child) => {
            // Both ends in one process: it would never see the other end's end.
            drop(ours);
            let init = Init {
                plan: &plan,
                process,
                group: &group,
                joins: &joins,
                ids: &ids,
                teller: &theirs,
                proof: &proof,
                slot: slot.as_ref(),
            };
            init.run(template, stdio)
        }
        Ok(Cloned::Parent(init)) => match group.complete(cgroup) {
            Ok(()) => {
                // One that has failed by now has left word why.
                let _ = ours.go_ahead();
                match slot {
                    Some(slot) => Birth::by_sibling(init, slot).doing("madvise", "init's memory"),
                    None => Ok(Birth::direct(init)),
                }
            }
            Err(failure) => {
                let _ = process::kill(init.pidfd.as_fd());
                Err(failure)
            }
        },
        Err(failure) => Err(failure),
    };
    match made {
        Ok(init) => {
            let process = Process {
                args: Vec::new(),
                ..plan.process.unwrap_or_default()
            };
            Ok((
                Container {
                    init,
                    proof,
                    group,
                    id: plan.container_id,
                    process,
                    identity: Identity::default(),
                    ids,
                    home: String::new(),
                    execs: 0,
                },
                ours,
            ))
        }
        Err(failure) => {
            let _ = group.cgroup().remove();
            Err(failure)
        }
    }
}

/// Starts a further process, which execs by itself.
pub(crate) fn exec(container: &mut Container, args: Vec<Vec<u8>>, ends: Ends) -> Result<Execed> {
    container.execs += 1;
    let (ours, theirs) = report::of_exec()?;
    let slot = Slot::new().doing("share memory", "with the exec")?;
    let subgroup = Subgroup::create(
        &container.group,
        container.group.hierarchies.for_killing(),
        container.execs,
    )?;
    let born = match container.clone_into(&subgroup) {
        Ok((Cloned::Child, freezer)) => {
            drop(ours);
            let Container {
                group,
                id,
                process,
                identity,
                ids,
                home,
                init,
                proof,
                ..
            } = container;
            let init = init.child().pidfd.as_fd();
            Stage {
                container_id: id,
                args: &args,
                process,
                identity,
                ids,
                home,
                group,
                freezer,
                init,
                teller: &theirs,
                maker: Maker {
                    proof,
                    slot: &slot,
                    terminal: matches!(ends, Ends::Terminal(_)),
                },
            }
            .run(ends)
        }
        Ok((Cloned::Parent(child), _)) => {
            Birth::by_sibling(child, slot).doing("madvise", "the exec's memory")
        }
        Err(failure) => Err(failure),
    };
    match born {
        Ok(birth) => Ok(Execed {
            birth,
            report: ours,
            subgroup,
        }),
        Err(failure) => {
            let _ = subgroup.cgroup().remove();
            Err(failure)
        }
    }
}

impl Container {
    /// Keeps what init has said, for further processes.
    pub(crate) fn set_created(&mut self, created: &mut Created) -> Result<()> {
        self.home.clone_from(&created.home);
        created.warnings.append(&mut self.group.warnings);
        let identity = created.identity.clone();
        self.identity =
            identity.ok_or_else(|| invalid("read", "report", "init has not said who it is"))?;
        Ok(())
    }

    fn clone_into(&self, subgroup: &Subgroup) -> Result<(Cloned, Option<OwnedFd>)> {
        let cgroup = subgroup.cgroup();
        let v2 = cgroup.open_v2().doing("open cgroup", "of the exec")?;
        let freezer = cgroup
            .open_tasks()
            .doing("open cgroup", "of the exec")?
            .pop();
        let cloned = process::clone(
            &self.proof,
            CloneFlags::empty(),
            v2.as_ref().map(AsFd::as_fd),
        );
        Ok((cloned.doing("clone3", "an exec")?, freezer))
    }

    pub(crate) fn update(&mut self, update: &Update) -> Result<Updated> {
        let updated = update::update(&self.group, Some(self.init.child()), update)?;
        if let Some(wanted) = update.oom_score_adj {
            self.process.oom_score_adj = wanted;
        }
        Ok(updated)
    }

    /// Kills every process in the cgroup, and init, which is not in it from the first moment.
    pub(crate) fn kill(&self) -> io::Result<()> {
        // The one's failure spares nothing of the other.
        let init = self.init.signal(process::SIGKILL);
        self.group.cgroup().kill().and(init)
    }

    /// What the kernel has killed in the container for want of memory; nothing after [`Self::remove_cgroup`].
    pub(crate) fn oom(&self) -> Option<Oom> {
        self.group.cgroup().oom().unwrap_or_default()
    }

    /// The path of its cgroup.
    pub(crate) fn cgroup(&self) -> &str {
        &self.group.path
    }

    /// Whether a seccomp filter is in its way.
    pub(crate) fn has_filter(&self) -> bool {
        !self.process.seccomp_filter.is_empty()
    }

    /// Removes the cgroup and what is below it.
    pub(crate) fn remove_cgroup(&self) -> io::Result<()> {
        self.group.cgroup().remove()
    }
}

impl Execed {
    /// Tells the process, and all that it has started, that their terminal or client has gone.
    pub(crate) fn hang_up(&self) -> io::Result<()> {
        self.subgroup.cgroup().hang_up()
    }

    /// Kills the process and all that it has started, wherever they have gone.
    pub(crate) fn kill(&self) -> io::Result<()> {
        // The monitor of an external runtime is not in it.
        let process = self.birth.signal(process::SIGKILL);
        self.subgroup.cgroup().kill().and(process)
    }

    /// Removes its cgroup. What still runs in it stays, and goes with the container.
    pub(crate) fn remove_cgroup(&self) {
        self.subgroup.cgroup().remove_empty();
    }
}
