//! The proc file system of a PID namespace that others are in.
//!
//! proc shows the PID namespace of who opens it (fsopen(2)), and init is not in there before it has nothing of the host any
//! more. Since Linux 6.17 the namespace is an option. Before, a child opens it: one that is in there, but has no rights
//! anywhere save in a user namespace and a mount namespace of its own, which suffice for opening, and no descriptors but
//! the ways to say an errno; what it opens is taken from it (pidfd_getfd(2)). The rest, which takes rights, is done outside.
//! Whoever gets hold of that child can have us mount something else, so what comes of it is looked at before it is attached.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use corten_proto::shim::FailureKind;
use corten_sys::{
    mount::{self, Value},
    ns, prctl,
    process::{self, Child, CloneFlags, Cloned, SingleThreaded},
};
use nix::{libc, unistd::pause};
use rustix::{
    fs::{AtFlags, PROC_SUPER_MAGIC, fstat, fstatfs, statat},
    pipe::{PipeFlags, pipe_with},
    process::{PidfdGetfdFlags, pidfd_getfd},
};

use crate::failure::{Doing, Result, failure, invalid};

/// The number that what is opened gets, of a standard stream: which others are free depends on the two that share them.
const CONTEXT: i32 = 0;
const DOING: &str = "mount";
const PROC: &str = "proc of the PID namespace";

/// A PID namespace whose proc is to be mounted, and what a child takes for that.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Pids<'a> {
    pub(in super::super) namespace: BorrowedFd<'a>,
    /// The template mount namespace.
    pub(in super::super) template: BorrowedFd<'a>,
    pub(in super::super) proof: &'a SingleThreaded,
}

impl Pids<'_> {
    /// A detached proc. To be called outside of the namespace.
    pub(super) fn proc(
        &self,
        options: &[(&str, Option<&str>)],
        attributes: u64,
    ) -> Result<OwnedFd> {
        let context = mount::open_filesystem("proc").doing(DOING, PROC)?;
        match mount::set_option(context.as_fd(), "pidns", Value::File(self.namespace)) {
            Ok(()) => {
                mount::make_filesystem(context.as_fd(), options, attributes).doing(DOING, PROC)
            }
            // The kernel has no such option.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.proc_from_within(options, attributes)
            }
            Err(error) => Err(error).doing(DOING, PROC),
        }
    }

    /// As [`Self::proc`], by a child.
    fn proc_from_within(
        &self,
        options: &[(&str, Option<&str>)],
        attributes: u64,
    ) -> Result<OwnedFd> {
        let context = self.open_within()?;
        let wrong = || invalid(DOING, PROC, "it is not what was opened");
        // No other file system knows this option; it is the default.
        mount::set_option(context.as_fd(), "hidepid", Value::Text("0")).map_err(|_| wrong())?;
        let proc =
            mount::make_filesystem(context.as_fd(), options, attributes).doing(DOING, PROC)?;
        let kind = fstatfs(&proc).doing("stat", PROC)?.f_type;
        let own = fstat(self.namespace).doing("stat", "the PID namespace")?;
        let shown = statat(&proc, "1/ns/pid", AtFlags::empty()).doing("stat", PROC)?;
        if kind == PROC_SUPER_MAGIC && (own.st_dev, own.st_ino) == (shown.st_dev, shown.st_ino) {
            Ok(proc)
        } else {
            Err(wrong())
        }
    }

    fn open_within(&self) -> Result<OwnedFd> {
        let (told, tell) = pipe_with(PipeFlags::CLOEXEC).doing("make a pipe", PROC)?;
        match process::clone(self.proof, CloneFlags::empty(), None).doing("clone", PROC)? {
            Cloned::Child => {
                if let Err(errno) = self.enter(&tell) {
                    let _ = rustix::io::write(&tell, &errno.to_ne_bytes());
                }
                process::exit_now(1)
            }
            Cloned::Parent(child) => {
                drop(tell);
                let taken = take(&told, &child);
                let _ = process::kill(child.pidfd.as_fd());
                process::wait(child.pidfd.as_fd()).doing("wait for", PROC)?;
                taken
            }
        }
    }

    /// Has a child open it in the PID namespace, with an empty root that no other process has, and waits to be killed. Both
    /// share their descriptors, of which there are the ways to tell an errno, and [`CONTEXT`]; no socket, which would name
    /// the process that has made it (SO_PEERPIDFD).
    fn enter(&self, tell: &OwnedFd) -> Result<(), i32> {
        let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        let entered = || -> io::Result<()> {
            prctl::end_with_parent()?;
            (0..3).try_for_each(|number| process::dup_to(tell.as_fd(), number))?;
            mount::enter_empty_root(self.template, &[])?;
            ns::enter(self.namespace, CloneFlags::CLONE_NEWPID)?;
            process::close_all_but(&[])
        };
        entered().map_err(errno)?;
        let own = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FILES;
        let told = |errno: i32| {
            let _ = rustix::io::write(rustix::stdio::stderr(), &errno.to_ne_bytes());
        };
        match process::clone(self.proof, own, None) {
            Ok(Cloned::Child) => {
                let opened = mount::open_filesystem("proc")
                    .and_then(|context| process::dup_to(context.as_fd(), CONTEXT));
                told(opened.map_or_else(errno, |()| 0));
                process::exit_now(0)
            }
            Ok(Cloned::Parent(_)) => {}
            Err(error) => told(errno(error)),
        }
        loop {
            pause();
        }
    }
}

/// The context that `child` has, as far as it can be believed: see the caller.
fn take(told: &OwnedFd, child: &Child) -> Result<OwnedFd> {
    let mut errno = [0; size_of::<i32>()];
    let length = rustix::io::read(told, &mut errno).doing("wait for", PROC)?;
    let errno = match length == errno.len() {
        true => i32::from_ne_bytes(errno),
        false => libc::EIO,
    };
    if errno != 0 {
        let mut failure = failure(
            FailureKind::FailureInternal,
            "open",
            PROC,
            &io::Error::from_raw_os_error(errno),
        );
        failure.hint = "before Linux 6.17 this takes a user namespace, of which \
                        /proc/sys/user/max_user_namespaces says how many there may be"
            .into();
        return Err(failure);
    }
    pidfd_getfd(&child.pidfd, CONTEXT, PidfdGetfdFlags::empty()).doing("take", PROC)
}
