//! Containers of an external OCI runtime, such as runc.
//!
//! ```text
//!   shim                        monitor                                  runtime
//!   clone3 -------------------> open what the plan names
//!                               mount it in a bundle that it alone sees
//!          <------------------- Prepared
//!   write config.json
//!   go ahead -----------------> run it in the bundle ------------------> create: init, which waits
//!                               take init's pid, leave the bundle <----- end
//!          <------------------- Created
//!   go ahead -----------------> run it --------------------------------> start: init runs its program
//!          <------------------- end of file; or Failure <--------------- end
//!                               wait for init, whose parent it is
//!          <------------------- end, with init's status
//!   run it ------------------------------------------------------------> delete
//! ```
//!
//! So the shim's loop waits for one child and its report, as with an init of its own, and neither for the runtime nor for
//! processes that it does not know. An exec has a monitor likewise. The runtime's own state lies in the container's
//! directory below `<state>`, and goes with it at the latest.

mod console;
mod exec;
mod monitor;
mod runtime;

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use corten_proto::{
    layout,
    shim::{Created, Oci, Plan, Update, Updated},
};
use corten_sys::{
    cgroup::{Hierarchies, Oom},
    process::{self, Child, CloneFlags, Cloned, Ended, SingleThreaded},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    pipe::{PipeFlags, pipe_with},
};

use self::{
    exec::ExecMonitor,
    monitor::Monitor,
    runtime::{Call, Runtime},
};
use super::{
    Ends, Execed, Report, Stdio, birth::Birth, exec::Subgroup, group::Group, program, report,
    update,
};
use crate::failure::{Doing, Result, invalid};

/// For what the runtime does when the container has ended.
const DELETE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct External {
    monitor: Child,
    /// Once the runtime has made the container.
    init: Option<Child>,
    proof: SingleThreaded,
    group: Group,
    runtime: Runtime,
    execs: u64,
    is_configured: bool,
    has_filter: bool,
    /// Of the container, for its further processes.
    env: Vec<Vec<u8>>,
    /// Init was killed, and the monitor should see its end.
    was_killed: bool,
}

impl External {
    /// Makes the cgroup and clones the monitor.
    pub(super) fn spawn(plan: Plan, oci: Oci, stdio: Stdio) -> Result<(Self, Report)> {
        let runtime = Runtime::new(oci, &plan)?;
        let missing = || invalid("read the plan", "cgroup", "is missing");
        let cgroup = plan.cgroup.as_ref().ok_or_else(missing)?;
        let mut group = Group::create(cgroup)?;
        let (ours, theirs) = report::pair()?;
        let proof = SingleThreaded::verify().doing("clone", "the monitor")?;
        let made = group.complete(cgroup).and_then(|()| {
            process::clone(&proof, CloneFlags::empty(), None).doing("clone3", "the monitor")
        });
        match made {
            Ok(Cloned::Child) => {
                let monitor = Monitor {
                    plan: &plan,
                    runtime: &runtime,
                    group: &group,
                };
                drop(ours);
                monitor.run(theirs, stdio)
            }
            Ok(Cloned::Parent(monitor)) => {
                let process = plan.process.as_ref();
                let external = Self {
                    monitor,
                    init: None,
                    proof,
                    group,
                    runtime,
                    execs: 0,
                    is_configured: false,
                    has_filter: process.is_some_and(|process| !process.seccomp_filter.is_empty()),
                    env: process.map_or_else(Vec::new, |process| process.env.clone()),
                    was_killed: false,
                };
                Ok((external, ours))
            }
            Err(failure) => {
                let _ = group.cgroup().remove();
                Err(failure)
            }
        }
    }

    pub(super) fn leader(&self) -> &Child {
        &self.monitor
    }

    pub(super) fn init(&self) -> Option<&Child> {
        self.init.as_ref()
    }

    pub(super) fn configure(&mut self, config: &[u8]) -> Result<()> {
        let path = self.runtime.bundle().join(layout::BUNDLE_CONFIG);
        self.is_configured = true;
        fs::write(&path, config).doing("write", path.display())
    }

    /// A container that the runtime has refused has no init; its start will say why.
    pub(super) fn set_created(&mut self, created: &mut Created) -> Result<()> {
        created.warnings.append(&mut self.group.warnings);
        program::add_home(&mut self.env, created.home.as_bytes());
        if created.init_pid != 0 {
            // Only the monitor reaps it, whose child it has proved to be, and not before it is told to go on.
            let pidfd = process::open(created.init_pid).doing("open", "the container's init")?;
            self.init = Some(Child {
                pid: created.init_pid,
                pidfd,
            });
        }
        Ok(())
    }

    pub(super) fn signal(&self, number: i32) -> io::Result<()> {
        match &self.init {
            Some(init) => process::signal(init.pidfd.as_fd(), number),
            None => Ok(()),
        }
    }

    /// The monitor is killed where it has no init to wait for, and where it did not see init's end since the last time.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        match &self.init {
            Some(init) if !self.was_killed => process::kill(init.pidfd.as_fd())?,
            _ => process::kill(self.monitor.pidfd.as_fd())?,
        }
        self.was_killed = true;
        self.group.cgroup().kill()
    }

    pub(super) fn update(&self, update: &Update) -> Result<Updated> {
        update::update(&self.group, self.init(), update)
    }

    pub(super) fn oom(&self) -> Option<Oom> {
        self.group.cgroup().oom().unwrap_or_default()
    }

    pub(super) fn cgroup(&self) -> &str {
        &self.group.path
    }

    pub(super) fn has_filter(&self) -> bool {
        self.has_filter
    }

    /// Lets the runtime forget the container, and removes the cgroup whether it has done so or not.
    pub(super) fn remove(&self) -> io::Result<()> {
        if self.is_configured {
            self.delete();
        }
        self.group.cgroup().remove()
    }

    fn delete(&self) {
        let id = self.runtime.id();
        let words = ["delete", "--force", id].map(|word| word.as_bytes().to_vec());
        let call = Call {
            name: "delete",
            words: &words,
            cgroup: None,
        };
        if let Ok(child) = self.runtime.spawn(&self.proof, &call) {
            if !has_ended(&child, DELETE) {
                let _ = process::kill(child.pidfd.as_fd());
            }
            let _ = process::wait(child.pidfd.as_fd());
        }
    }

    pub(super) fn exec(&mut self, args: &[Vec<u8>], ends: Ends) -> Result<Execed> {
        self.execs += 1;
        let (hierarchies, controller) = for_execs(&self.group.hierarchies);
        let subgroup = Subgroup::create(&self.group, hierarchies, self.execs)?;
        let (ours, theirs) = report::pair()?;
        let cloned = process::clone(&self.proof, CloneFlags::empty(), None);
        match cloned.doing("clone3", "the monitor of an exec") {
            Ok(Cloned::Child) => {
                drop(ours);
                let monitor = ExecMonitor {
                    runtime: &self.runtime,
                    number: self.execs,
                    cgroup: format!("{controller}{}", Subgroup::name(self.execs)),
                    args,
                    env: &self.env,
                };
                monitor.run(theirs, ends)
            }
            Ok(Cloned::Parent(child)) => Ok(Execed {
                birth: Birth::direct(child),
                report: ours,
                subgroup,
            }),
            Err(failure) => {
                let _ = subgroup.cgroup().remove();
                Err(failure)
            }
        }
    }
}

/// Where a runtime puts a further process by `--cgroup`, and how it is told: on v1 in the hierarchy that can be frozen
/// while its processes are killed. A v2 hierarchy without controllers is none for runtimes.
fn for_execs(all: &Hierarchies) -> (Hierarchies, &'static str) {
    let freezer = all.v1.iter().filter(|v1| v1.has("freezer")).cloned();
    if all.is_unified() {
        (all.clone(), "")
    } else {
        let freezer = Hierarchies {
            v1: freezer.collect(),
            v2: None,
        };
        (freezer, "freezer:")
    }
}

fn has_ended(child: &Child, limit: Duration) -> bool {
    let limit = rustix::time::Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or_default(),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(&child.pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&limit)), Ok(1..))
}

/// Makes descriptors 0 to 2 of `stdio`, of which a missing stdin is a pipe that nobody writes to, and closes all others but
/// for `report`. For a child that will never drop its copies of what the shim owns. Not the host's /dev/null: some runtimes
/// leave that to the container, or give it to the container's user.
fn keep_only(report: &OwnedFd, stdio: Stdio) -> Result<()> {
    let (empty, _) = pipe_with(PipeFlags::CLOEXEC).doing("make a pipe", "for stdin")?;
    let stdin = stdio.stdin.as_ref().unwrap_or(&empty);
    for (number, stream) in (0..).zip([stdin, &stdio.stdout, &stdio.stderr]) {
        process::dup_to(stream.as_fd(), number).doing("dup2", number)?;
    }
    drop((empty, stdio));
    super::child::close_descriptors(report)
}

/// The same for what is to get a terminal from its runtime. Streams that lead nowhere stand in for it. Returns `socket`.
fn keep_socket(report: &OwnedFd, socket: OwnedFd) -> Result<OwnedFd> {
    // Descriptors 0 to 2 are those that stay.
    process::dup_to(socket.as_fd(), 0).doing("dup2", "socket")?;
    drop(socket);
    super::child::close_descriptors(report)?;
    let kept = rustix::stdio::stdin().try_clone_to_owned();
    let kept = kept.doing("dup", "socket")?;
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).doing("make a pipe", "for a runtime")?;
    for (number, stream) in (0..).zip([&read, &write, &write]) {
        process::dup_to(stream.as_fd(), number).doing("dup2", number)?;
    }
    Ok(kept)
}

/// Lets go of the streams, so that their readers see their end.
fn drop_streams() -> Result<()> {
    let null = fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.doing("open", "/dev/null")?;
    (0..3)
        .try_for_each(|number| process::dup_to(null.as_fd(), number))
        .doing("dup2", "/dev/null")
}

/// The process whose id the runtime wrote, once: a child of the calling monitor, which the runtime has left to it. A number
/// that is no child's is not believed.
fn take_process(path: &Path) -> Result<Child> {
    let pid = take_pid(path)?;
    process::child(pid).doing("open", format!("process {pid} of the runtime"))
}

fn take_pid(path: &Path) -> Result<i32> {
    let text = fs::read_to_string(path).doing("read", path.display())?;
    let _ = fs::remove_file(path);
    text.trim()
        .parse()
        .map_err(io::Error::other)
        .doing("read", path.display())
}

/// Ends this process as the one that it has stood for.
fn end_as(ended: Ended) -> ! {
    if let Ended::Killed(signal) = ended
        && process::reset_signals().is_ok()
        && let Ok(own) = i32::try_from(std::process::id())
            .map_or(Err(io::ErrorKind::Other.into()), process::open)
    {
        let _ = process::signal(own.as_fd(), signal);
    }
    process::exit_now(ended.code())
}

/// Waits for the end of a child, and reaps what else ends meanwhile.
fn wait_for(child: &Child) -> Result<Ended> {
    let pid = child.pid;
    loop {
        match process::wait_any() {
            Ok((ended, how)) if ended == pid => return Ok(how),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).doing("wait for", pid),
        }
    }
}
