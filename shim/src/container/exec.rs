//! A further process in a running container, with the credentials, limits and filter of its init.
//!
//! It has a cgroup of its own below the container's, by which it and all that it starts can be killed: on v2, also where v1
//! has the controllers, or else in v1's freezer hierarchy.

use std::os::fd::{BorrowedFd, OwnedFd};

use corten_proto::shim::{Identity, Process};
use corten_sys::{
    cgroup::{Cgroup, Hierarchies},
    ns,
    process::CloneFlags,
    root::Root,
};

use super::{
    Ends,
    birth::Maker,
    child::{self, gone_or},
    group::Group,
    ids::{self, Ids},
    keyring,
    program::{self, Program},
    report::Teller,
    security::{self, Privileges},
    terminal,
};
use crate::failure::{Doing, Result};

/// What the shim hands to the child.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) container_id: &'a str,
    pub(super) args: &'a [Vec<u8>],
    pub(super) process: &'a Process,
    pub(super) identity: &'a Identity,
    pub(super) ids: &'a Ids,
    /// HOME, where the environment has none.
    pub(super) home: &'a str,
    pub(super) group: &'a Group,
    /// Of the freezer hierarchy, where v2 is missing.
    pub(super) freezer: Option<OwnedFd>,
    /// Of the container's init.
    pub(super) init: BorrowedFd<'a>,
    pub(super) teller: &'a Teller,
    pub(super) maker: Maker<'a>,
}

struct Ready {
    privileges: Privileges,
    program: Program,
}

impl Stage<'_> {
    pub(super) fn run(&self, ends: Ends) -> ! {
        child::run(self.teller, || match self.prepare(ends) {
            Ok(ready) => child::execute(
                &ready.privileges,
                self.process,
                &ready.program,
                Some(self.maker),
            ),
            Err(failure) => failure,
        })
    }

    fn prepare(&self, ends: Ends) -> Result<Ready> {
        self.maker.keep_memory()?;
        // Told when init was made.
        let mut warnings = Vec::new();
        child::begin(self.process, &mut warnings)?;
        self.group.attach()?;
        if let Some(freezer) = &self.freezer {
            rustix::io::write(freezer, b"0").doing("enter cgroup", "freezer")?;
        }
        if let Ends::Streams(stdio) = &ends {
            let owner = self.ids.owner(self.identity.uid, self.identity.gid)?;
            child::give_streams(stdio, owner.0);
        }
        security::set_rlimits(&self.process.rlimits, &mut warnings)?;
        self.enter()?;
        keyring::join(self.container_id, &mut warnings)?;
        let root = Root::open("/".as_ref()).doing("open", "/")?;
        // As it was when the container was made: its own files are read no more.
        let mut defaults = vec![program::home(self.home.as_bytes())];
        if matches!(ends, Ends::Terminal(_)) {
            defaults.push(terminal::KIND.to_vec());
        }
        let program = Program::new(self.args, &self.process.env, &defaults)?;
        match &ends {
            Ends::Streams(stdio) => child::take_streams(&root, stdio)?,
            Ends::Terminal(socket) => {
                let master = terminal::open(&root, self.identity, false)?;
                terminal::send(socket, &master)?;
            }
        }
        let privileges = Privileges::new(
            &self.process.capabilities.unwrap_or_default(),
            &mut warnings,
        )?;
        child::settle(&privileges, self.identity, &root, &self.process.cwd)
            .map_err(child::is_the_containers)?;
        drop((root, ends));
        self.teller
            .close_others()
            .doing("close_range", "descriptors")?;
        Ok(Ready {
            privileges,
            program,
        })
    }

    /// Enters the namespaces of init in one call, so that the rights of the host's root count for all of them. PID is for
    /// the sibling to come.
    fn enter(&self) -> Result<()> {
        let mut kinds = CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWCGROUP;
        if self.ids.are_mapped() {
            kinds |= CloneFlags::CLONE_NEWUSER;
        }
        ns::enter(self.init, kinds).map_err(|error| gone_or("enter namespaces", &error))?;
        if self.ids.are_mapped() {
            ids::become_root()?;
        }
        Ok(())
    }
}

/// The cgroup of one exec.
#[derive(Debug)]
pub(super) struct Subgroup {
    hierarchies: Hierarchies,
    path: String,
}

impl Subgroup {
    /// Makes the `number`th of the container, in these hierarchies.
    pub(super) fn create(group: &Group, hierarchies: Hierarchies, number: u64) -> Result<Self> {
        let subgroup = Self {
            hierarchies,
            path: format!("{}/{}", group.path, Self::name(number)),
        };
        subgroup
            .cgroup()
            .create_below()
            .doing("make cgroup", &subgroup.path)?;
        Ok(subgroup)
    }

    /// Below the container's.
    pub(super) fn name(number: u64) -> String {
        format!("exec-{number}")
    }

    pub(super) fn cgroup(&self) -> Cgroup<'_> {
        Cgroup::new(&self.hierarchies, &self.path)
    }
}
