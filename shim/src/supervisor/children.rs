//! The end of every child, whether it was made here or not.
//!
//! A process of the container whose parent is the shim, such as an exec's, can have siblings made, which are the shim's
//! children (clone(2), CLONE_PARENT). One that nobody reaps would stay for ever, and hold up the end of its PID namespace,
//! so of the container (pid_namespaces(7)). So does what a tracer has kept back.

use std::io;

use corten_sys::process;
use nix::sys::{
    signal::{SigSet, Signal, raise},
    signalfd::{SfdFlags, SignalFd},
};

use super::Supervisor;
use crate::{
    note::note,
    poll::{Poll, Source},
};

/// Ends that are dealt with before other events have their turn: on a large machine a command can make children of the shim
/// faster than that reaps them.
const BURST: u32 = 256;

/// SIGCHLD, which comes as an event.
#[derive(Debug)]
pub(super) struct Ends(SignalFd);

impl Ends {
    /// Children that run programs unblock the signal ([`process::reset_signals`]).
    pub(super) fn watch(events: &Poll) -> io::Result<Self> {
        let mut signal = SigSet::empty();
        signal.add(Signal::SIGCHLD);
        signal.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let ends = SignalFd::with_flags(&signal, flags)?;
        events.add(&ends, Source::Child)?;
        Ok(Self(ends))
    }
}

impl Supervisor {
    /// Reaps what has ended. A process that is known is dealt with as by its own event.
    pub(super) fn reap(&mut self) {
        // One signal stands for any number of ends.
        while matches!(self.ends.0.read_signal(), Ok(Some(_))) {}
        let (mut last, mut turns) = (0, 0);
        for _ in 0..BURST {
            let Ok(Some(pid)) = process::ended_child() else {
                return;
            };
            turns = if pid == last { turns + 1 } else { 0 };
            last = pid;
            let mut execs = self.execs.iter();
            let exec = execs.find_map(|(number, exec)| exec.has(pid).then_some(*number));
            let container = self.container.as_ref();
            match exec {
                // Once to take it over from its maker, once for its end.
                _ if turns > 1 => reap_stranger(pid),
                Some(number) => self.exec_ended(number),
                None if container.is_some_and(|container| container.has(pid)) => self.end(),
                None => reap_stranger(pid),
            }
        }
        // There may be more: the event comes once more.
        if let Err(error) = raise(Signal::SIGCHLD) {
            note(format_args!("ended children wait: {error}"));
        }
    }
}

fn reap_stranger(pid: i32) {
    if let Err(error) = process::reap(pid) {
        note(format_args!("a child was not reaped: {error}"));
    }
}
