//! Birth into a PID namespace that others are in, who may have the right to look into any process there.
//!
//! ```text
//!   shim                        maker, in the host's PID namespace           sibling, in the container's
//!   clone3 -------------------> enter namespaces, cgroups, root
//!                               become the user, close descriptors,
//!                               give up all that the container has not
//!                               clone -------------------------------------> setsid, execve
//!   reap the maker, <---------- end
//!   watch the sibling
//! ```
//!
//! So nobody ever sees a process that leads to the host or that may do more than the container's own. The shim learns the
//! sibling's id from memory that it shares with the maker, and with no process in there; its failure comes by a pipe.

use std::{io, os::fd::AsFd};

use corten_sys::{
    process::{self, Child, CloneFlags, SingleThreaded},
    sibling::{Slot, Whose},
};
use rustix::process::setsid;

use super::{child::gone_or, terminal};
use crate::failure::{Doing, Result};

/// A child of the shim, or two of them, the one after the other.
#[derive(Debug)]
pub(crate) struct Birth {
    child: Child,
    /// While the child may be the maker of the one that stays.
    slot: Option<Slot>,
}

impl Birth {
    /// Birth of a process that stays itself.
    pub(super) fn direct(child: Child) -> Self {
        Self { child, slot: None }
    }

    /// Birth by a child that may make another. The memory that it has for that is kept out of the next one.
    ///
    /// # Errors
    /// When that is not possible; the child is killed then.
    pub(super) fn by_sibling(child: Child, slot: Slot) -> io::Result<Self> {
        if let Err(error) = slot.keep_from_children() {
            let _ = process::kill(child.pidfd.as_fd());
            return Err(error);
        }
        Ok(Self {
            child,
            slot: Some(slot),
        })
    }

    /// Child that is to be watched.
    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// Whether the id is the child's or its sibling's.
    pub(crate) fn has(&self, pid: i32) -> bool {
        self.child.pid == pid || self.slot.as_ref().and_then(Slot::pid) == Some(pid)
    }

    /// Takes over the sibling where there is one, and returns the maker, reaped. All that the maker has still to do is to end,
    /// in the host's PID namespace, where no tracer of the container's keeps its end back.
    pub(crate) fn succeed(&mut self) -> io::Result<Option<Child>> {
        let sibling = self.slot.as_ref().map(Slot::sibling).transpose()?.flatten();
        let Some(sibling) = sibling else {
            return Ok(None);
        };
        process::wait(self.child.pidfd.as_fd())?;
        self.slot = None;
        Ok(Some(std::mem::replace(&mut self.child, sibling)))
    }

    /// Signals the child, and its sibling where there is one.
    pub(super) fn signal(&self, number: i32) -> io::Result<()> {
        let child = process::signal(self.child.pidfd.as_fd(), number);
        match self.slot.as_ref().and_then(Slot::pid) {
            Some(sibling) => process::signal_child(sibling, number).and(child),
            None => child,
        }
    }
}

/// Means by which the maker makes its sibling.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maker<'a> {
    pub(super) proof: &'a SingleThreaded,
    pub(super) slot: &'a Slot,
    /// Whether the streams are a terminal, to be the sibling's.
    pub(super) terminal: bool,
}

impl Maker<'_> {
    /// Keeps the memory of the sibling's id from further children; the maker's first step.
    pub(super) fn keep_memory(&self) -> Result<()> {
        self.slot
            .keep_from_children()
            .doing("madvise", "the memory of its sibling's id")
    }

    /// Ends this process and goes on in the sibling, which leads a session of its own there.
    pub(super) fn make(&self) -> Result<()> {
        let made = self.slot.clone_sibling(self.proof, CloneFlags::empty());
        match made.map_err(|error| gone_or("clone", &error))? {
            Whose::Maker => process::exit_now(0),
            Whose::Sibling => setsid().doing("setsid", "process")?,
        };
        if self.terminal {
            terminal::take()?;
        }
        Ok(())
    }
}
