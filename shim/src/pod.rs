//! The init of a pod's PID namespace: made, pinned, and from then on it reaps and does nothing else.

use std::{
    fs,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use corten_sys::{
    caps, memory, ns, prctl, process,
    process::{Child, CloneFlags, Cloned, SingleThreaded},
};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{SigSet, Signal},
    unistd::setsid,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::note::note;

/// Makes the init, pins its namespace on `pin` and prints the init's process id. Returns in the parent alone, where the init
/// has nothing of the host any more.
pub(crate) fn run(template: &OwnedFd, pin: &Path) -> io::Result<()> {
    let proof = SingleThreaded::verify()?;
    let (told, ready) = pipe_with(PipeFlags::CLOEXEC)?;
    match process::clone(&proof, CloneFlags::CLONE_NEWPID, None)? {
        Cloned::Child => {
            if let Err(error) = confine(template, &ready) {
                note(format_args!("set up the init of a PID namespace: {error}"));
                process::exit_now(1);
            }
            reap_for_ever()
        }
        Cloned::Parent(init) => {
            drop(ready);
            let made = publish(&init, pin, &told);
            if made.is_err() {
                let _ = process::kill(init.pidfd.as_fd());
                let _ = process::wait(init.pidfd.as_fd());
            }
            made
        }
    }
}

fn publish(init: &Child, pin: &Path, told: &OwnedFd) -> io::Result<()> {
    let source = format!("/proc/{}/ns/pid", init.pid);
    ns::pin_file(Path::new(&source), pin)?;
    let published = match rustix::io::read(told, &mut [0; 1])? {
        0 => Err(io::Error::other(
            "the init of the PID namespace could not be set up",
        )),
        _ => writeln!(io::stdout(), "{}", init.pid),
    };
    if published.is_err() {
        let _ = umount2(pin, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(pin);
    }
    published
}

/// Nothing of the host is left to it: no files, no descriptors, no capabilities.
fn confine(template: &OwnedFd, ready: &OwnedFd) -> io::Result<()> {
    // None from within the namespace does anything; those that cannot be blocked do not reach an init.
    SigSet::all().thread_block()?;
    setsid()?;
    prctl::set_undumpable()?;
    prctl::set_name(c"corten-pod")?;
    ns::enter(template.as_fd(), CloneFlags::CLONE_NEWNS)?;
    for capability in 0..64 {
        if prctl::drop_bounding(capability).is_err() {
            break;
        }
    }
    prctl::set_no_new_privileges()?;
    caps::set(caps::Sets::default())?;
    rustix::io::write(ready, &[1])?;
    process::close_all();
    memory::trim();
    Ok(())
}

/// Acts on nothing but the end of a child.
fn reap_for_ever() -> ! {
    let mut end_of_child = SigSet::empty();
    end_of_child.add(Signal::SIGCHLD);
    loop {
        while matches!(process::reap_any(), Ok(Some(_))) {}
        let _ = end_of_child.wait();
    }
}
