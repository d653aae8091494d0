//! The init of a pod's PID namespace: made, pinned, and from then on it reaps and does nothing else.

use std::{
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use corten_sys::{
    caps, memory, ns, prctl, process,
    process::{CloneFlags, Cloned, SingleThreaded},
};
use nix::{
    sys::signal::{SigSet, Signal},
    unistd::setsid,
};

/// Makes the init, pins its namespace on `pin` and prints the init's process id. Returns in the parent alone.
pub(crate) fn run(template: &OwnedFd, pin: &Path) -> io::Result<()> {
    let proof = SingleThreaded::verify()?;
    match process::clone(&proof, CloneFlags::CLONE_NEWPID, None)? {
        Cloned::Child => {
            if let Err(error) = confine(template) {
                crate::note::note(format_args!("set up the init of a PID namespace: {error}"));
                process::exit_now(1);
            }
            reap_for_ever()
        }
        Cloned::Parent(child) => {
            let source = format!("/proc/{}/ns/pid", child.pid);
            let pinned = ns::pin_file(Path::new(&source), pin);
            let told = pinned.and_then(|()| writeln!(io::stdout(), "{}", child.pid));
            if told.is_err() {
                let _ = process::kill(child.pidfd.as_fd());
            }
            told
        }
    }
}

/// Nothing of the host is left to it: no files, no descriptors, no capabilities.
fn confine(template: &OwnedFd) -> io::Result<()> {
    setsid()?;
    prctl::set_undumpable()?;
    ns::enter(template.as_fd(), CloneFlags::CLONE_NEWNS)?;
    for capability in 0..64 {
        if prctl::drop_bounding(capability).is_err() {
            break;
        }
    }
    prctl::set_no_new_privileges()?;
    caps::set(caps::Sets::default())?;
    process::close_all();
    memory::trim();
    Ok(())
}

/// Signals are blocked, so that none from within the namespace does anything; the end of a child is waited for.
fn reap_for_ever() -> ! {
    let mut end_of_child = SigSet::empty();
    end_of_child.add(Signal::SIGCHLD);
    let _ = SigSet::all().thread_block();
    loop {
        while matches!(process::reap_any(), Ok(Some(_))) {}
        let _ = end_of_child.wait();
    }
}
