//! Descriptors that came with a request, in the order in which it names them.

use std::os::fd::OwnedFd;

use crate::failure::{Result, invalid};

#[derive(Debug)]
pub(super) struct Descriptors {
    call: &'static str,
    left: std::vec::IntoIter<OwnedFd>,
}

impl Descriptors {
    pub(super) fn of(call: &'static str, fds: Vec<OwnedFd>) -> Self {
        Self {
            call,
            left: fds.into_iter(),
        }
    }

    /// The next one, if the request names it.
    pub(super) fn take(&mut self, named: bool) -> Result<Option<OwnedFd>> {
        let few = || {
            invalid(
                self.call,
                "descriptors",
                "fewer came than the request names",
            )
        };
        match named {
            true => self.left.next().ok_or_else(few).map(Some),
            false => Ok(None),
        }
    }
}
