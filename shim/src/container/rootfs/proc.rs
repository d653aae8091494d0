//! The proc file system of a PID namespace that others are in.
//!
//! proc shows the PID namespace of who opens it (fsopen(2)), and init is not in there before it has nothing of the host any
//! more. Since Linux 6.17 the namespace is an option. Before, a child opens it: one that is in there, but has no rights
//! anywhere save in a user namespace and a mount namespace of its own, which suffice for opening; the rest, which takes
//! rights, is done outside. Whoever gets hold of that child can have us mount something else, so what comes of it is
//! looked at before it is attached.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use corten_proto::shim::Created;
use corten_sys::{
    mount::{self, Value},
    ns,
    process::{self, CloneFlags, Cloned, SingleThreaded},
};
use nix::libc;
use rustix::fs::{AtFlags, PROC_SUPER_MAGIC, fstat, fstatfs, statat};

use super::super::report::{self, Packet, Report};
use crate::failure::{Doing, Result, invalid};

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
        let (mut ours, theirs) = report::pair()?;
        match process::clone(self.proof, CloneFlags::empty(), None).doing("clone", PROC)? {
            Cloned::Child => {
                drop(ours);
                let told = match self.enter(&theirs) {
                    Ok(()) => process::exit_now(0),
                    Err(failure) => Packet {
                        failure: Some(failure),
                        ..Packet::default()
                    },
                };
                let _ = report::write(theirs.as_fd(), &told, None);
                process::exit_now(1)
            }
            Cloned::Parent(child) => {
                drop(theirs);
                process::wait(child.pidfd.as_fd()).doing("wait for", PROC)?;
                take(&mut ours)
            }
        }
    }

    /// From the host's PID namespace into the other: with nothing open but the socket, and an empty root that no other
    /// process has.
    fn enter(&self, socket: &OwnedFd) -> Result<()> {
        let opening = || -> io::Result<()> {
            (0..3).try_for_each(|number| process::dup_to(socket.as_fd(), number))?;
            mount::enter_empty_root(self.template, &[])?;
            ns::enter(self.namespace, CloneFlags::CLONE_NEWPID)?;
            process::close_all_but(socket.as_fd())
        };
        opening().doing("enter", "the PID namespace")?;
        let own = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
        let cloned = process::clone(self.proof, own, None).doing("clone", PROC);
        match cloned.map_err(|mut failure| {
            failure.hint = "before Linux 6.17 this takes a user namespace, of which \
                            /proc/sys/user/max_user_namespaces says how many there may be"
                .into();
            failure
        })? {
            Cloned::Parent(child) => {
                process::wait(child.pidfd.as_fd()).doing("wait for", PROC)?;
                Ok(())
            }
            Cloned::Child => {
                let opened = mount::open_filesystem("proc").doing("open", PROC);
                let told = Packet {
                    // An empty message would be the end.
                    created: Some(Created::default()),
                    failure: opened.as_ref().err().cloned(),
                    ..Packet::default()
                };
                let context = opened.as_ref().ok().map(AsFd::as_fd);
                let _ = report::write(socket.as_fd(), &told, context);
                process::exit_now(0)
            }
        }
    }
}

fn take(report: &mut Report) -> Result<OwnedFd> {
    report.read()?;
    let none = || invalid("open", PROC, "the child that opens it has died");
    report.take_descriptor().ok_or_else(none)
}
