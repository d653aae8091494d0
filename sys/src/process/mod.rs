//! Processes: born by clone3, waited for by pidfd.
//!
//! A raw clone3 does not tell libc: its cached thread id is stale in the child. Between clone and execve the child must not
//! use pthread calls, `raise` or `abort`; memory may be allocated, since [`SingleThreaded`] says that no other thread
//! held the allocator's lock.

mod ends;

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

pub use nix::sched::CloneFlags;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

pub use self::ends::{
    Ended, child, ended_child, has_ended, reap, reap_any, signal_child, try_wait, wait, wait_any,
};

/// include/uapi/linux/sched.h, since 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Since 5.5: the child starts with default signal handlers.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// Looks for other threads before one counts as alive.
const LOOKS: u32 = 1000;

/// signal(7)
pub const SIGKILL: i32 = libc::SIGKILL;

/// This process has one thread, so that a copy of it is whole.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Counts the threads. One that was joined is listed until the kernel has done with it, some moments later.
    ///
    /// # Errors
    /// When there is another one.
    pub fn verify() -> io::Result<Self> {
        let mut count = 0;
        for _ in 0..LOOKS {
            count = fs::read_dir("/proc/self/task")?.count();
            if count == 1 {
                return Ok(Self(()));
            }
            std::thread::yield_now();
        }
        Err(io::Error::other(format!(
            "this process has {count} threads, and may have one"
        )))
    }
}

/// Side of a [`clone`] that has returned.
#[derive(Debug)]
pub enum Cloned {
    Parent(Child),
    Child,
}

/// A child process.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Copies this process (clone3(2)), into the v2 cgroup that `cgroup` is open on.
pub fn clone(
    _proof: &SingleThreaded,
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Cloned> {
    let mut pidfd: i32 = -1;
    // SAFETY: all fields are integers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    // CLONE_* below bit 32 and above bit 7 fit into i32 as libc has them; the sign bit is CLONE_IO, which nobody asks for.
    arguments.flags = u64::from(flags.bits().cast_unsigned())
        | libc::CLONE_PIDFD.cast_unsigned() as u64
        | CLONE_CLEAR_SIGHAND;
    arguments.pidfd = (&raw mut pidfd) as u64;
    // A sibling of the caller ends as the caller does, and clone3 wants no signal of its own for it.
    if !flags.contains(CloneFlags::CLONE_PARENT) {
        arguments.exit_signal = libc::SIGCHLD.cast_unsigned() as u64;
    }
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `arguments` is a whole clone_args of the given size; without CLONE_VM and with no stack the child goes on
    // with a copy of this stack, and `pidfd` outlives the call. `SingleThreaded` was checked.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD), and nobody else knows it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            Ok(Cloned::Parent(Child { pid, pidfd }))
        }
    }
}

/// Sends a signal by number, 0 to 64; a process that has ended is no error.
pub fn signal(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    match send_signal(pidfd, number) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result,
    }
}

/// Checks that the process was not reaped, so that its number is still its own.
///
/// # Errors
/// ESRCH when it was reaped: its number may be another's.
pub fn check_unreaped(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    match send_signal(pidfd, 0) {
        // The process is there, and may not be signalled by us.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        result => result,
    }
}

fn send_signal(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: the call takes integers and a null pointer, which stands for the default siginfo.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            number,
            std::ptr::null::<u8>(),
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Kills the process that `pidfd` refers to.
pub fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A pidfd of any process.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Ends this process without running anything of ours or libc's: for a child between clone and execve.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Gives every signal its default action and unblocks it, as a program expects that is to be run.
pub fn reset_signals() -> io::Result<()> {
    // A kernel's struct sigaction: handler, flags, restorer, mask. All zero is SIG_DFL.
    let default = [0_u64; 4];
    for number in 1..=64 {
        // Not by libc, which keeps two signals to itself, and has them ignored in what posix_spawn starts.
        // SAFETY: `default` is a whole action that outlives the call, with a mask of the given size; for those that
        // cannot be changed the call fails harmlessly.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    Ok(nix::sys::signal::SigSet::all().thread_unblock()?)
}

/// Lets this process run on every processor that its cpuset has, whatever its parent was held to.
///
/// Since Linux 6.2 a mask that was asked for outlives a move into another cpuset, so that one of the service manager
/// (systemd.exec(5), `CPUAffinity`) would hold for all containers, too.
pub fn reset_affinity() -> io::Result<()> {
    // For 8192 processors, the most that the kernel can be built for. It leaves out those that are not there.
    let all = [u64::MAX; 8192 / 64];
    // SAFETY: the call reads the mask, which outlives it, in the given size.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&all), all.as_ptr().cast()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ignores what a service manager or a terminal sends to whole groups, a socket whose other side is gone, and a file that may
/// not grow: the call that failed says so, too.
pub fn ignore_terminal_signals() {
    for number in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGPIPE,
        libc::SIGXFSZ,
    ] {
        // SAFETY: SIG_IGN is a valid action for each of these.
        unsafe { libc::signal(number, libc::SIG_IGN) };
    }
}

/// Closes every descriptor, for a process that needs none ever again. Owners that are left must not be used or dropped.
pub fn close_all() {
    // SAFETY: the call takes integers; by the contract of this function no owner of a descriptor runs afterwards.
    unsafe { libc::close_range(0, u32::MAX, 0) };
}

/// Keeps every descriptor from 3 on, which are those that the starter of this process has left open, from the programs that
/// it runs (close_range(2), since 5.11 with this flag).
pub fn keep_descriptors_from_programs() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: the call takes integers. No descriptor is closed by it in this process, so that its owners stay valid.
    match unsafe { libc::close_range(3, u32::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor from 3 on. The program may own none of them: this is for its first step, before it opens
/// anything.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: the call takes integers; by the contract of this function no owner of what it closes is there.
    match unsafe { libc::close_range(3, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives `fd` the number `number`, as descriptors 0 to 2 of a program to be run.
pub fn dup_to(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: the call takes integers. What had the number before is a standard stream, which Rust's library never owns.
    let result = unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) };
    if result == number {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Closes every descriptor from 3 on, but for `kept`: for a child between clone and execve, whose copy of the parent's owners
/// is never dropped. Nothing that owns another one may be used or dropped afterwards.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let number = |fd: &BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
    let mut kept: Vec<u32> = kept.iter().map(number).collect();
    kept.sort_unstable();
    let mut first = 3;
    for number in kept.into_iter().filter(|number| *number > 2) {
        close_range(first, number - 1)?;
        first = number + 1;
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the call takes integers; by the contract of `close_all_but` no owner of what it closes is left.
    match unsafe { libc::close_range(first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Soft and hard limit of the RLIMIT_* number `resource` (getrlimit(2)).
pub fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit, which `limit` is and which outlives the call.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    if result == 0 {
        Ok((limit.rlim_cur, limit.rlim_max))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets soft and hard limit of the RLIMIT_* number `resource` (setrlimit(2)).
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the kernel reads one rlimit, which `limit` is and which outlives the call.
    let result = unsafe { libc::setrlimit(resource, &raw const limit) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_thread_is_noticed() {
        // The test harness has its own.
        assert!(SingleThreaded::verify().is_err());
    }
}
