//! A child that makes the process that is to stay: a sibling of its own, which is born into what the child has entered for
//! its children, such as a PID namespace, and has no more than the child has kept.
//!
//! The parent learns the sibling's id from memory that it shares with the child: a message could be lost with the child,
//! and the sibling would be a zombie for ever, which holds up the end of its PID namespace (pid_namespaces(7)). The sibling
//! does not have that memory (madvise(2), MADV_DONTFORK), and the parent believes the id where the kernel says that it is
//! a child's.

use std::{
    io,
    ptr::NonNull,
    sync::atomic::{AtomicI32, Ordering},
};

use nix::sched::CloneFlags;

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

    /// The sibling's id, as the parent sees it, from the moment on when there is one. It is the parent's to reap. Nothing is
    /// to be done to a process by this number: [`Self::sibling`] proves whose it is.
    pub fn pid(&self) -> Option<i32> {
        match self.word().load(Ordering::Acquire) {
            0 => None,
            pid => Some(pid),
        }
    }

    /// Keeps the memory out of every process that is cloned from the calling one from now on. Both sides call it: the
    /// parent when the child is there, whose next child is another's, and the child before anything else. So no process
    /// inside of a container ever has the memory, where others could write to it by /proc/<pid>/mem.
    pub fn keep_from_children(&self) -> io::Result<()> {
        // SAFETY: the range is the mapping of `self`, whose contents the call leaves as they are.
        let result = unsafe {
            libc::madvise(
                self.0.as_ptr().cast(),
                size_of::<AtomicI32>(),
                libc::MADV_DONTFORK,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The sibling as a child of this process, its parent, where there is one.
    ///
    /// # Errors
    /// When the id is not that of a child of this process, or no descriptor is to be had.
    pub fn sibling(&self) -> io::Result<Option<Child>> {
        self.pid().map(process::child).transpose()
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
