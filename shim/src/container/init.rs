//! The stages of a container's init, from clone3 to execve.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use corten_proto::shim::{Created, Failure, FailureKind, Plan, Process};
use corten_sys::{
    process::{CloneFlags, SingleThreaded},
    root::Root,
    sibling::Slot,
};
use nix::sched::unshare;

use super::{
    Stdio,
    birth::Maker,
    child,
    group::Group,
    ids::Ids,
    keyring,
    namespaces::Joins,
    program::{self, Program},
    report::{Packet, Teller},
    rootfs::{self, Pids, Sources},
    security::{self, Privileges},
    terminal,
    user::User,
};
use crate::failure::{Doing, Result, failure};

/// What the shim hands to init.
#[derive(Debug)]
pub(super) struct Init<'a> {
    pub(super) plan: &'a Plan,
    pub(super) process: &'a Process,
    pub(super) group: &'a Group,
    pub(super) joins: &'a Joins,
    pub(super) ids: &'a Ids,
    pub(super) teller: &'a Teller,
    pub(super) proof: &'a SingleThreaded,
    /// Where a sibling becomes the container's init: in a PID namespace with others.
    pub(super) slot: Option<&'a Slot>,
}

/// What execve still needs.
struct Ready {
    privileges: Privileges,
    program: Program,
}

impl Init<'_> {
    /// All stages, in the child.
    pub(super) fn run(&self, template: &OwnedFd, stdio: Stdio) -> ! {
        child::run(self.teller, || match self.prepare(template, stdio) {
            Ok(ready) => self.go_on(&ready),
            Err(failure) => failure,
        })
    }

    /// Everything that can go wrong with what a user asked for, save for the program itself. Every descriptor is dropped or
    /// closed at its end.
    fn prepare(&self, template: &OwnedFd, stdio: Stdio) -> Result<Ready> {
        if let Some(maker) = self.maker() {
            maker.keep_memory()?;
        }
        let mut told = Created::default();
        child::begin(self.process, &mut told.warnings)?;
        let user_namespace = self.joins.user.as_ref().map(AsFd::as_fd);
        let mut sources = Sources::open(self.plan, user_namespace, &mut told.warnings)?;
        if !self.teller.wait_for_release() {
            return Err(shim_is_gone());
        }
        self.group.attach()?;
        if self.joins.cgroup {
            unshare(CloneFlags::CLONE_NEWCGROUP).doing("unshare", "the cgroup namespace")?;
        }
        sources.open_cgroup(self.plan, self.group)?;
        self.joins.enter()?;
        self.ids.make_files_as_root()?;
        let pids = self.joins.pid.as_ref().map(|pid| Pids {
            namespace: pid.as_fd(),
            template: template.as_fd(),
            proof: self.proof,
        });
        let (root, user) = sources.assemble(self.plan, template, pids)?;
        self.close(root, &user, &stdio, &mut told)?;
        self.joins.enter_pid()?;
        self.joins.enter_user()?;
        keyring::join(&self.plan.container_id, &mut told.warnings)?;
        let (ready, master) = self.settle(&stdio, user, &mut told)?;
        drop(stdio);
        let packet = Packet {
            created: Some(told),
            ..Packet::default()
        };
        self.teller
            .tell(&packet, master.as_ref().map(AsFd::as_fd))?;
        drop(master);
        self.teller
            .close_others()
            .doing("close_range", "descriptors")?;
        Ok(ready)
    }

    /// The last steps that take the host's root: all that the user's ids on the host are needed for, and limits that nobody
    /// else may raise. The tree is `/` then, and as the container will see it.
    fn close(&self, root: Root, user: &User, stdio: &Stdio, told: &mut Created) -> Result<()> {
        let process = self.process;
        self.ids.check(&user.identity)?;
        let owner = self.ids.owner(user.identity.uid, user.identity.gid)?;
        // What is missing of it has to be made before the root is read-only.
        child::make_cwd(&root, &process.cwd, self.ids, owner)?;
        child::give_streams(stdio, owner.0);
        security::set_rlimits(&process.rlimits, &mut told.warnings)?;
        rootfs::close(&root, self.plan)
    }

    /// From a complete tree to a process that only lacks its program.
    fn settle(
        &self,
        stdio: &Stdio,
        user: User,
        told: &mut Created,
    ) -> Result<(Ready, Option<OwnedFd>)> {
        let process = self.process;
        let identity = user.identity;
        // Not what was open before: its mounts may be of another mount namespace, or have been covered.
        let root = Root::open("/".as_ref()).doing("open", "/")?;
        let program = Program::new(&process.args, &process.env, &[program::home(&user.home)])?;
        told.home = String::from_utf8_lossy(&user.home).into_owned();
        let master = if process.terminal {
            let master = terminal::open(&root, &identity, true)?;
            // Whoever leads the terminal's session hangs it up by its end.
            if self.slot.is_none() {
                terminal::take()?;
            }
            Some(master)
        } else {
            child::take_streams(&root, stdio)?;
            None
        };
        let privileges = Privileges::new(
            &process.capabilities.unwrap_or_default(),
            &mut told.warnings,
        )?;
        child::settle(&privileges, &identity, &root, &process.cwd)?;
        told.identity = Some(identity);
        Ok((
            Ready {
                privileges,
                program,
            },
            master,
        ))
    }

    fn go_on(&self, ready: &Ready) -> Failure {
        if !self.teller.wait_for_release() {
            return shim_is_gone();
        }
        self.teller.leave_to_sibling();
        let (privileges, program) = (&ready.privileges, &ready.program);
        child::execute(privileges, self.process, program, self.maker())
    }

    fn maker(&self) -> Option<Maker<'_>> {
        self.slot.map(|slot| Maker {
            proof: self.proof,
            slot,
            terminal: self.process.terminal,
        })
    }
}

/// For nobody to read.
fn shim_is_gone() -> Failure {
    let error = io::Error::from(io::ErrorKind::BrokenPipe);
    failure(FailureKind::FailureInternal, "wait", "for the shim", &error)
}
