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
//! So nobody ever sees a process that leads to the host or that may do more than the container's own.

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
    /// Of a process that stays itself.
    pub(super) fn direct(child: Child) -> Self {
        Self { child, slot: None }
    }

    pub(super) fn by_sibling(child: Child, slot: Slot) -> Self {
        Self {
            child,
            slot: Some(slot),
        }
    }

    /// Which of both is to be watched.
    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// Takes over the sibling where there is one, and returns the maker, reaped. All that the maker has still to do is to
    /// end.
    pub(crate) fn succeed(&mut self) -> io::Result<Option<Child>> {
        if self.slot.as_ref().and_then(Slot::pid).is_none() {
            return Ok(None);
        }
        process::wait(self.child.pidfd.as_fd())?;
        let sibling = self.slot.take().map(Slot::take).transpose()?.flatten();
        Ok(sibling.map(|sibling| std::mem::replace(&mut self.child, sibling)))
    }

    /// Kills whichever there is, and waits for its end: for one that cannot be watched.
    pub(crate) fn end(&mut self) {
        let _ = self.signal(process::SIGKILL);
        let _ = process::wait(self.child.pidfd.as_fd());
        if let Some(Ok(Some(sibling))) = self.slot.take().map(Slot::take) {
            let _ = process::kill(sibling.pidfd.as_fd());
            let _ = process::wait(sibling.pidfd.as_fd());
        }
    }

    /// Signals whichever there is.
    pub(super) fn signal(&self, number: i32) -> io::Result<()> {
        process::signal(self.child.pidfd.as_fd(), number)?;
        self.slot
            .as_ref()
            .map_or(Ok(()), |slot| slot.signal(number))
    }
}

/// What the maker needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maker<'a> {
    pub(super) proof: &'a SingleThreaded,
    pub(super) slot: &'a Slot,
    /// Whether the streams are a terminal, to be the sibling's.
    pub(super) terminal: bool,
}

impl Maker<'_> {
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
