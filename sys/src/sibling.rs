//! A child that makes the process that is to stay: a sibling of its own, which is born into what the child has entered for
//! its children, such as a PID namespace, and has no more than the child has kept.
//!
//! The parent learns the sibling's id from memory that it shares with the child: a message could be lost with the child,
//! and the sibling would be a zombie for ever, which holds up the end of its PID namespace (pid_namespaces(7)).

use std::{
    io,
    ptr::NonNull,
    sync::atomic::{AtomicI32, Ordering},
};

use nix::sched::CloneFlags;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::process::{self, Child, SingleThreaded};

/// What [`Slot::clone_sibling`] asks clone(2) for, as its first argument.
pub const FLAGS: u32 = (libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID).cast_unsigned();

/// A word of shared memory: the id of the sibling that a child makes. To be made by the parent, before the child.
#[derive(Debug)]
pub struct Slot(NonNull<AtomicI32>);

/// Who one is after [`Slot::clone_sibling`].
#[derive(Debug)]
pub enum Whose {
    Maker,
    Sibling,
}

impl Slot {
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<AtomicI32>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(word) if address != libc::MAP_FAILED => Ok(Self(word)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn word(&self) -> &AtomicI32 {
        // SAFETY: the mapping is a page, aligned and zero at first, which is a value of the type; it lives as long as
        // `self`, and all processes that share it read and write it as atomic, as the kernel does.
        unsafe { self.0.as_ref() }
    }

    /// The sibling's id, as the parent sees it, from the moment on when there is one. It is the parent's to reap.
    pub fn pid(&self) -> Option<i32> {
        match self.word().load(Ordering::Acquire) {
            0 => None,
            pid => Some(pid),
        }
    }

    /// Sends the sibling a signal. Not for one that was reaped.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let Some(pid) = self.pid() else {
            return Ok(());
        };
        // SAFETY: the call takes integers.
        match unsafe { libc::kill(pid, number) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The sibling as a child of this process, its parent, where there is one.
    ///
    /// # Errors
    /// When no descriptor is to be had; the sibling is killed and reaped then.
    pub fn take(self) -> io::Result<Option<Child>> {
        let Some(pid) = self.pid() else {
            return Ok(None);
        };
        match process::open(pid) {
            Ok(pidfd) => Ok(Some(Child { pid, pidfd })),
            Err(error) => {
                let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
                Err(error)
            }
        }
    }

    /// Copies this process, a child of the slot's maker, as a sibling. By clone(2), which filters of system calls allow
    /// that refuse clone3.
    pub fn clone_sibling(&self, _proof: &SingleThreaded, flags: CloneFlags) -> io::Result<Whose> {
        // The kernel writes to it where no page can be brought in any more: when this process has been killed.
        self.word().store(0, Ordering::Release);
        let flags = FLAGS | flags.bits().cast_unsigned();
        // SAFETY: without CLONE_VM and with no stack the sibling goes on with a copy of this stack; the word outlives the
        // call. The other arguments are for flags that are not set. `SingleThreaded` was checked.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone,
                u64::from(flags),
                std::ptr::null_mut::<u8>(),
                self.0.as_ptr(),
                std::ptr::null_mut::<u8>(),
                std::ptr::null_mut::<u8>(),
            )
        };
        match pid {
            ..0 => Err(io::Error::last_os_error()),
            0 => Ok(Whose::Sibling),
            _ => Ok(Whose::Maker),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<AtomicI32>()) };
    }
}
