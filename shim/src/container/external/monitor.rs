//! The process between the shim and a container of an external runtime, in its stages.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use corten_proto::{
    layout,
    shim::{Created, Failure, FailureKind, MountAttributes, Plan, Prepared, Process},
};
use corten_sys::{
    ns, prctl,
    process::{self, Child, CloneFlags, Ended, SingleThreaded},
};
use nix::sched::unshare;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{StatVfsMountFlags, statvfs},
    process::setsid,
};

use super::{
    super::{
        Stdio,
        group::Group,
        report::{self, Packet},
        rootfs::Sources,
        security,
    },
    console::Console,
    drop_streams, end_as, keep_only,
    runtime::{Call, Refusal, Runtime},
    take_process, wait_for,
};
use crate::failure::{Doing, Result};

/// The end of a monitor that has nobody's to take over.
pub(super) const FAILED: Ended = Ended::Exited(127);

const PID_FILE: &str = "pid";

/// What the shim hands to the monitor.
#[derive(Debug)]
pub(super) struct Monitor<'a> {
    pub(super) plan: &'a Plan,
    pub(super) runtime: &'a Runtime,
    pub(super) group: &'a Group,
}

/// A container that waits for its start.
struct Waiting {
    init: Child,
    terminal: Option<OwnedFd>,
}

impl Monitor<'_> {
    /// All stages, in the child, which ends as the container does.
    pub(super) fn run(&self, report: OwnedFd, stdio: Stdio) -> ! {
        let made = keep_only(&report, stdio).and_then(|()| self.create(&report));
        let ended = match made {
            Ok((made, told)) => self.serve(report, made, told),
            Err(failure) => tell(&report, failure),
        };
        end_as(ended)
    }

    /// From a plan to a container, or to why the runtime does not want it.
    fn create(&self, report: &OwnedFd) -> Result<(Result<Waiting, String>, Created)> {
        begin()?;
        let host = File::open("/proc/self/ns/mnt").doing("open", "the mount namespace")?;
        let told = self.prepare(report)?;
        if !report::wait_for_release(report) {
            return Err(shim_is_gone());
        }
        let made = self.run_create();
        // The bundle's mounts end here; the container has copies of its own.
        ns::enter(host.as_fd(), CloneFlags::CLONE_NEWNS).doing("leave", "the bundle")?;
        drop_streams()?;
        match made {
            Ok(waiting) => Ok((Ok(waiting), told)),
            Err(Refusal::Refused(words)) => Ok((Err(words), told)),
            Err(Refusal::NotRun(failure)) => Err(failure),
        }
    }

    /// Lays out the bundle and tells what was found.
    fn prepare(&self, report: &OwnedFd) -> Result<Created> {
        let none = Process::default();
        let process = self.plan.process.as_ref().unwrap_or(&none);
        let mut told = Created::default();
        let sources = Sources::open(self.plan, None, &mut told.warnings)?;
        // A copy of all that the host has, so that volumes stay in their peer groups.
        unshare(CloneFlags::CLONE_NEWNS).doing("unshare", "the mount namespace")?;
        let nodes = sources.nodes();
        let (user, bound) = sources.lay_out(self.plan, &self.runtime.bundle())?;
        told.identity = Some(user.identity.clone());
        told.home = String::from_utf8_lossy(&user.home).into_owned();
        let prepared = Prepared {
            devices: nodes.describe(&user.identity),
            identity: Some(user.identity),
            home: told.home.clone(),
            oom_score_adj: security::possible_oom_score_adj(
                process.oom_score_adj,
                &mut told.warnings,
            )?,
            rlimits: security::possible_rlimits(&process.rlimits, &mut told.warnings)?,
            bound_attributes: bound
                .iter()
                .map(|index| self.attributes(*index))
                .collect::<Result<_>>()?,
            bound: bound
                .into_iter()
                .filter_map(|index| index.try_into().ok())
                .collect(),
        };
        let packet = Packet {
            prepared: Some(prepared),
            ..Packet::default()
        };
        report::write(report.as_fd(), &packet, None)?;
        Ok(told)
    }

    /// Those of a mount in the bundle.
    fn attributes(&self, index: usize) -> Result<MountAttributes> {
        let path = layout::bundle_mount(&self.runtime.bundle(), index);
        let flags = statvfs(&path).doing("statfs", path.display())?.f_flag;
        Ok(MountAttributes {
            readonly: flags.contains(StatVfsMountFlags::RDONLY),
            nosuid: flags.contains(StatVfsMountFlags::NOSUID),
            nodev: flags.contains(StatVfsMountFlags::NODEV),
            noexec: flags.contains(StatVfsMountFlags::NOEXEC),
        })
    }

    fn run_create(&self) -> Result<Waiting, Refusal> {
        let terminal = self
            .plan
            .process
            .as_ref()
            .is_some_and(|process| process.terminal);
        let console = terminal
            .then(|| Console::listen(self.runtime, "console"))
            .transpose()
            .map_err(Refusal::NotRun)?;
        let bundle = self.runtime.file("");
        let mut words: Vec<Vec<u8>> = vec![b"create".into(), b"--bundle".into(), bundle];
        words.extend([b"--pid-file".to_vec(), self.runtime.file(PID_FILE)]);
        words.extend(console.iter().flat_map(Console::option));
        words.push(self.runtime.id().into());
        let proof = self.proof().map_err(Refusal::NotRun)?;
        let cgroup = self.born_in().map_err(Refusal::NotRun)?;
        let cgroup = cgroup.as_ref().map(AsFd::as_fd);
        self.runtime.run(
            &proof,
            &Call {
                name: "create",
                words: &words,
                cgroup,
            },
        )?;
        let pid_file = self.runtime.bundle().join(PID_FILE);
        Ok(Waiting {
            init: take_process(&pid_file).map_err(Refusal::NotRun)?,
            terminal: console
                .map(Console::accept)
                .transpose()
                .map_err(Refusal::NotRun)?,
        })
    }

    /// Beside v1 hierarchies runtimes leave v2's alone, so that init is born where the runtime is. By itself that hierarchy
    /// is the runtime's business.
    fn born_in(&self) -> Result<Option<OwnedFd>> {
        if self.group.hierarchies.is_unified() {
            Ok(None)
        } else {
            self.group.open_v2()
        }
    }

    /// From a created container to its end.
    fn serve(&self, report: OwnedFd, made: Result<Waiting, String>, mut told: Created) -> Ended {
        let (init, terminal, words) = match made {
            Ok(Waiting { init, terminal }) => (Some(init), terminal, String::new()),
            Err(words) => (None, None, words),
        };
        told.init_pid = init.as_ref().map_or(0, |init| init.pid);
        let packet = Packet {
            created: Some(told),
            ..Packet::default()
        };
        let sent = report::write(report.as_fd(), &packet, terminal.as_ref().map(AsFd::as_fd));
        drop(terminal);
        let started = sent.and_then(|()| match &init {
            Some(init) => self.start(&report, init),
            None if report::wait_for_release(&report) => Err(self.refused(words)),
            None => Err(shim_is_gone()),
        });
        corten_sys::memory::trim();
        match (started, &init) {
            (Ok(()), Some(init)) => {
                drop(report);
                wait_for(init).unwrap_or(FAILED)
            }
            (Ok(()), None) => FAILED,
            (Err(failure), init) => {
                let ended = tell(&report, failure);
                if let Some(init) = init {
                    let _ = process::kill(init.pidfd.as_fd());
                }
                ended
            }
        }
    }

    /// Returns when the program runs, or init has ended before it was to run it.
    fn start(&self, report: &OwnedFd, init: &Child) -> Result<()> {
        let mut fds = [
            PollFd::new(report, PollFlags::IN),
            PollFd::new(&init.pidfd, PollFlags::IN),
        ];
        poll(&mut fds, None).doing("wait for", "the start")?;
        if fds[0].revents().is_empty() {
            return Ok(());
        }
        if !report::wait_for_release(report) {
            return Err(shim_is_gone());
        }
        let words = [b"start".to_vec(), self.runtime.id().into()];
        let call = Call {
            name: "start",
            words: &words,
            cgroup: None,
        };
        match self.runtime.run(&self.proof()?, &call) {
            Ok(_) => Ok(()),
            Err(Refusal::Refused(words)) => Err(self.refused(words)),
            Err(Refusal::NotRun(failure)) => Err(failure),
        }
    }

    fn proof(&self) -> Result<SingleThreaded> {
        SingleThreaded::verify().doing("clone", "the runtime")
    }

    /// As of a program that cannot be run, which is what it mostly is.
    fn refused(&self, words: String) -> Failure {
        let process = self.plan.process.as_ref();
        let program = process.and_then(|process| process.args.first());
        Failure {
            kind: FailureKind::FailureExec.into(),
            operation: "exec".into(),
            subject: String::from_utf8_lossy(program.map_or(b"", Vec::as_slice)).into_owned(),
            hint: words,
            ..Failure::default()
        }
    }
}

/// Becomes the parent of what the runtime leaves behind.
pub(super) fn begin() -> Result<()> {
    prctl::set_undumpable().doing("prctl", "PR_SET_DUMPABLE")?;
    prctl::set_name(c"corten-monitor").doing("prctl", "PR_SET_NAME")?;
    prctl::set_child_subreaper().doing("prctl", "PR_SET_CHILD_SUBREAPER")?;
    // Older runtimes hand on what they get.
    process::reset_affinity().doing("reset", "the affinity to processors")?;
    setsid().map(drop).doing("setsid", "process")
}

/// Tells the shim, and returns how to end.
pub(super) fn tell(report: &OwnedFd, failure: Failure) -> Ended {
    let packet = Packet {
        failure: Some(failure),
        ..Packet::default()
    };
    let _ = report::write(report.as_fd(), &packet, None);
    FAILED
}

/// For nobody to read.
fn shim_is_gone() -> Failure {
    let error = io::Error::from(io::ErrorKind::BrokenPipe);
    crate::failure::failure(FailureKind::FailureInternal, "wait", "for the shim", &error)
}
