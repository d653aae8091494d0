//! The init of a pod's PID namespace: made, pinned, and from then on it reaps and does nothing else.

use std::{
    ffi::CStr,
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use corten_proto::shim::PodInit;
use corten_sys::{
    caps,
    cgroup::{Cgroup, Hierarchies},
    command_line::CommandLine,
    memory, mount, ns, prctl, process,
    process::{Child, CloneFlags, Cloned, SingleThreaded},
    seccomp, socket,
};
use nix::{
    libc::{self, c_long},
    mount::{MntFlags, umount2},
    sched::unshare,
    sys::signal::{SigSet, Signal},
    unistd::setsid,
};
use prost::Message;
use rustix::{
    fs::{CWD, Gid, Mode, OFlags, Uid, openat},
    net::{RecvFlags, recv},
    pipe::{PipeFlags, pipe_with},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::note::note;

/// Name of the init that containers see in /proc/1/comm and /proc/1/cmdline.
const NAME: &CStr = c"corten-pod";

/// All that the init calls once it is set up. With CAP_SYS_PTRACE in a container it does what its tracer says, in the end; the
/// first three tell that it is there, and close what it has for that.
const CALLS: [c_long; 7] = [
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_waitid,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_restart_syscall,
    libc::SYS_exit_group,
];

/// Longest message, bytes.
const MAX_MESSAGE: usize = 64 << 10;

/// Reads what is wanted from `socket`, makes the init, pins its namespace on `pin` and prints the init's process id. Returns in
/// the parent alone, where the init has nothing of the host any more. With a user namespace the PID namespace belongs to it.
pub(crate) fn run(socket: &OwnedFd, pin: &Path) -> io::Result<()> {
    prctl::set_undumpable()?;
    let (wanted, template) = receive(socket)?;
    let has_labels = !wanted.process_label.is_empty();
    let root_label = has_labels.then_some(wanted.root_label.as_str());
    let label = has_labels
        .then(|| Label::new(&wanted.process_label))
        .transpose()?;
    // The init is born in it.
    enter_cgroup(&wanted.cgroup)?;
    let namespaces = Namespaces::open(&wanted)?;
    let proof = SingleThreaded::verify()?;
    let (told, ready) = pipe_with(PipeFlags::CLOEXEC)?;
    let (go_on, pinned) = pipe_with(PipeFlags::CLOEXEC)?;
    let command_line = CommandLine::find()?;
    let user = open_pin(&wanted.user)?;
    let before = || {
        namespaces.enter()?;
        enter_empty_root(&template, root_label)
    };
    let init = match &user {
        Some(user) => clone_in(&proof, user, before)?,
        None => process::clone(&proof, CloneFlags::CLONE_NEWPID, None)?,
    };
    match init {
        Cloned::Child => {
            let entered = match user {
                Some(_) => become_root(),
                None => before(),
            };
            // One whose parent has ended before it was pinned would be found by nobody.
            drop(pinned);
            let pinned = || match rustix::io::read(go_on, &mut [0; 1])? {
                0 => Err(io::ErrorKind::BrokenPipe.into()),
                _ => {
                    command_line.replace(&proof, NAME.to_bytes());
                    Ok(())
                }
            };
            if let Err(error) = entered
                .and_then(|()| pinned())
                .and_then(|()| confine(label.as_ref(), &ready))
            {
                note(format_args!("set up the init of a PID namespace: {error}"));
                process::exit_now(1);
            }
            reap_for_ever()
        }
        Cloned::Parent(init) => {
            drop((ready, go_on));
            let made = publish(&init, pin, &told, &pinned);
            if made.is_err() {
                let _ = process::kill(init.pidfd.as_fd());
                let _ = process::wait(init.pidfd.as_fd());
            }
            made
        }
    }
}

/// Receives what is wanted, and the mount namespace that containers start from.
fn receive(socket: &OwnedFd) -> io::Result<(PodInit, OwnedFd)> {
    // Waits for it.
    recv(socket, &mut [0; 1][..], RecvFlags::PEEK)?;
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut fds = Vec::new();
    let length = socket::receive(socket, &mut bytes, &mut fds)?;
    let template = fds.pop().ok_or(io::ErrorKind::UnexpectedEof)?;
    let wanted = PodInit::decode(&bytes[..length]).map_err(io::Error::other)?;
    Ok((wanted, template))
}

fn open_pin(path: &str) -> io::Result<Option<File>> {
    (!path.is_empty()).then(|| File::open(path)).transpose()
}

fn enter_cgroup(path: &str) -> io::Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    let hierarchies = Hierarchies::detect()?;
    let cgroup = Cgroup::new(&hierarchies, path);
    cgroup.create()?;
    // 0 is the writer itself.
    cgroup.attach(0)?;
    for tasks in cgroup.open_tasks()? {
        rustix::io::write(&tasks, b"0")?;
    }
    Ok(())
}

/// Namespaces of the pod, so that containers that look into the init find none of the host's, nor get there by it.
struct Namespaces {
    entered: Vec<(File, CloneFlags)>,
    own_cgroup: bool,
}

impl Namespaces {
    fn open(wanted: &PodInit) -> io::Result<Self> {
        let mut entered = Vec::new();
        for (path, kind) in [
            (&wanted.network, CloneFlags::CLONE_NEWNET),
            (&wanted.ipc, CloneFlags::CLONE_NEWIPC),
            (&wanted.uts, CloneFlags::CLONE_NEWUTS),
        ] {
            entered.extend(open_pin(path)?.map(|pin| (pin, kind)));
        }
        Ok(Self {
            entered,
            own_cgroup: wanted.own_cgroup_namespace,
        })
    }

    fn enter(&self) -> io::Result<()> {
        for (pin, kind) in &self.entered {
            ns::enter(pin.as_fd(), *kind)?;
        }
        if self.own_cgroup {
            unshare(CloneFlags::CLONE_NEWCGROUP)?;
        }
        Ok(())
    }
}

/// Clones as clone(2) with CLONE_NEWPID, by a child that has entered the user namespace and is gone afterwards. The other namespaces
/// and the empty root are entered `before`, since only the host's root may do that.
fn clone_in(
    proof: &SingleThreaded,
    user: &File,
    before: impl FnOnce() -> io::Result<()>,
) -> io::Result<Cloned> {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let between = match process::clone(proof, CloneFlags::empty(), None)? {
        Cloned::Parent(between) => between,
        Cloned::Child => {
            let flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_PARENT;
            let cloned = before()
                .and_then(|()| ns::enter(user.as_fd(), CloneFlags::CLONE_NEWUSER))
                .and_then(|()| prctl::set_undumpable())
                .and_then(|()| process::clone(proof, flags, None));
            match cloned {
                Ok(Cloned::Child) => return Ok(Cloned::Child),
                Ok(Cloned::Parent(init)) => {
                    let _ = rustix::io::write(&tell, &init.pid.to_ne_bytes());
                }
                Err(error) => note(format_args!("enter the user namespace: {error}")),
            }
            process::exit_now(0)
        }
    };
    drop(tell);
    let mut pid = [0; size_of::<i32>()];
    let read = rustix::io::read(told, &mut pid);
    process::wait(between.pidfd.as_fd())?;
    if read? != pid.len() {
        return Err(io::Error::other(
            "the init of the PID namespace could not be made",
        ));
    }
    let pid = i32::from_ne_bytes(pid);
    process::child(pid).map(Cloned::Parent)
}

fn publish(init: &Child, pin: &Path, told: &OwnedFd, pinned: &OwnedFd) -> io::Result<()> {
    let source = format!("/proc/{}/ns/pid", init.pid);
    ns::pin_file(Path::new(&source), pin)?;
    // Whether it is there to hear of it, the answer tells.
    let _ = rustix::io::write(pinned, &[1]);
    let published = match rustix::io::read(told, &mut [0; 1])? {
        0 => Err(io::Error::other(
            "the init of the PID namespace could not be set up",
        )),
        _ => writeln!(io::stdout(), "{}", init.pid),
    };
    if published.is_err() {
        let _ = umount2(pin, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(pin);
    }
    published
}

/// Leaves the host's mounts for an empty root, which containers see in /proc/1; with a label where there is one.
fn enter_empty_root(template: &OwnedFd, label: Option<&str>) -> io::Result<()> {
    let label: Vec<_> = label
        .map(|label| ("context", Some(label)))
        .into_iter()
        .collect();
    mount::enter_empty_root(template.as_fd(), &label)
}

/// The numbers are root's in the user namespace; what was root's on the host is nobody's there.
fn become_root() -> io::Result<()> {
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(())
}

/// Nothing of the host is left to it: no descriptors, no capabilities, no system calls but its own few.
fn confine(label: Option<&Label<'_>>, ready: &OwnedFd) -> io::Result<()> {
    // None from within the namespace does anything; those that cannot be blocked do not reach an init.
    SigSet::all().thread_block()?;
    setsid()?;
    prctl::set_undumpable()?;
    prctl::set_name(NAME)?;
    for capability in 0..64 {
        if prctl::drop_bounding(capability).is_err() {
            break;
        }
    }
    prctl::set_no_new_privileges()?;
    caps::set(caps::Sets::default())?;
    if let Some(label) = label
        && let Err(error) = label.take()
    {
        note(format_args!(
            "the init of a PID namespace keeps the daemon's SELinux label: {error}"
        ));
    }
    memory::trim();
    seccomp::allow_only(&CALLS)?;
    rustix::io::write(ready, &[1])?;
    process::close_all();
    Ok(())
}

/// An SELinux label for a process that execs nothing (setcon(3)), and will not see the host's proc when it takes it.
struct Label<'a> {
    text: &'a str,
    proc: OwnedFd,
}

impl<'a> Label<'a> {
    fn new(text: &'a str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = openat(CWD, "/proc", flags, Mode::empty())?;
        Ok(Self { text, proc })
    }

    fn take(&self) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&self.proc, "self/attr/current", flags, Mode::empty())?;
        rustix::io::write(&file, self.text.as_bytes()).map(drop)?;
        Ok(())
    }
}

/// Acts on nothing but the end of a child.
fn reap_for_ever() -> ! {
    let mut end_of_child = SigSet::empty();
    end_of_child.add(Signal::SIGCHLD);
    loop {
        while matches!(process::reap_any(), Ok(Some(_))) {}
        let _ = end_of_child.wait();
    }
}
