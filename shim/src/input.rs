//! The container's standard input, where it has one: a pipe that waits for clients.

use std::{io, os::fd::OwnedFd};

use corten_proto::shim::Process;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::failure::{Doing, Result};

/// The end that is written to. Clients get it; the container's input ends when nobody has it any more.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pipe: Option<OwnedFd>,
    /// It is for one client, by whose end it ends.
    once: bool,
}

impl Input {
    /// Makes the pipe that `process` asks for. Returns the container's end, too. A terminal is its own input.
    pub(crate) fn open(process: &Process) -> Result<(Self, Option<OwnedFd>)> {
        if !process.stdin || process.terminal {
            return Ok((Self::default(), None));
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).doing("make a pipe", "for stdin")?;
        let input = Self {
            pipe: Some(write),
            once: process.stdin_once,
        };
        Ok((input, Some(read)))
    }

    /// What a client gets; `None` where there is none, or it was for another.
    pub(crate) fn give(&mut self) -> io::Result<Option<OwnedFd>> {
        match &self.pipe {
            Some(_) if self.once => Ok(self.pipe.take()),
            Some(pipe) => pipe.try_clone().map(Some),
            None => Ok(None),
        }
    }
}
