//! Ends of processes, of this process's children above all.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{WaitId, WaitIdOptions, WaitIdStatus, waitid},
};

use super::{Child, open};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ended {
    Exited(i32),
    Killed(i32),
}

impl Ended {
    /// As a shell tells it: 128 + N for signal N.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128 + signal,
        }
    }
}

/// How the child has ended, if it has; it is reaped unless a tracer keeps it.
///
/// The end of a process that is traced is the tracer's to see, and its parent's only when the tracer lets go of it
/// (ptrace(2), "Death under ptrace"), while its pidfd is readable all the time. Processes of a container can trace each
/// other. The child is then one of [`ended_child`] when it is let go.
///
/// # Errors
/// When it is not a child of this process; there is nothing to wait for then.
pub fn try_wait(child: &Child) -> io::Result<Option<Ended>> {
    let status = waitid(
        WaitId::PidFd(child.pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    )?;
    Ok(match status {
        Some(status) => Some(ended(&status)),
        None => fs::read_to_string(format!("/proc/{}/stat", child.pid))
            .ok()
            .and_then(|stat| kept_end(&stat)),
    })
}

/// The end of a zombie without threads, from its /proc/<pid>/stat (proc_pid_stat(5)).
fn kept_end(stat: &str) -> Option<Ended> {
    // The name before may have anything in it.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<i32>().ok();
    if fields.first() != Some(&"Z") || number(20)? > 1 {
        return None;
    }
    let status = number(52)?;
    Some(match libc::WIFEXITED(status) {
        true => Ended::Exited(libc::WEXITSTATUS(status)),
        false => Ended::Killed(libc::WTERMSIG(status)),
    })
}

/// The id of a child that has ended and is not reaped; the same one until it is.
pub fn ended_child() -> io::Result<Option<i32>> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel writes one siginfo, which `info` is and which outlives the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid has filled in the fields of SIGCHLD, or none of them: the id is then 0 as before.
    match unsafe { info.si_pid() } {
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// The child `pid` of this process, which was not reaped.
///
/// # Errors
/// ECHILD when it is none. The number of a child is its own until it is reaped, so that no other process can have it
/// between that look and pidfd_open.
pub fn child(pid: i32) -> io::Result<Child> {
    check_child(pid)?;
    Ok(Child {
        pid,
        pidfd: open(pid)?,
    })
}

/// Signals the child `pid` of this process, which needs no descriptor, and is no error when it has ended.
///
/// # Errors
/// ECHILD when it is none, as for [`child`]; by its number it is signalled for the same reason.
pub fn signal_child(pid: i32, number: i32) -> io::Result<()> {
    check_child(pid)?;
    // SAFETY: kill takes integers. The number is that of a child, which is this thread's to reap.
    match unsafe { libc::kill(pid, number) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reaps the child `pid` of this process, which needs no descriptor. `None`: it has not ended, or a tracer keeps it.
///
/// # Errors
/// ECHILD when it is none.
pub fn reap(pid: i32) -> io::Result<Option<Ended>> {
    let id = child_id(pid)?;
    let status = waitid(
        WaitId::Pid(id),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    )?;
    Ok(status.map(|status| ended(&status)))
}

fn check_child(pid: i32) -> io::Result<()> {
    waitid(
        WaitId::Pid(child_id(pid)?),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
    )?;
    Ok(())
}

/// An id that stands for one process, which 0 and negative numbers do not (waitpid(2), kill(2)).
fn child_id(pid: i32) -> io::Result<rustix::process::Pid> {
    let id = Some(pid).filter(|pid| *pid > 0);
    let id = id.and_then(rustix::process::Pid::from_raw);
    Ok(id.ok_or(io::ErrorKind::InvalidInput)?)
}

/// Whether the process has ended, reaped or not.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&now))? > 0)
}

/// Waits for the child's end and reaps it.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(ended(&status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Reaps any child that has ended. `None` when there is none that has.
pub fn reap_any() -> io::Result<Option<Ended>> {
    let status = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(status.map(|status| ended(&status)))
}

/// Waits for the end of any child, and reaps it.
pub fn wait_any() -> io::Result<(i32, Ended)> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer, which `status` is and which outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid if libc::WIFEXITED(status) => Ok((pid, Ended::Exited(libc::WEXITSTATUS(status)))),
        pid => Ok((pid, Ended::Killed(libc::WTERMSIG(status)))),
    }
}

fn ended(status: &WaitIdStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Killed(signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::SIGKILL;

    #[test]
    fn a_signal_is_a_code_above_128() {
        assert_eq!(Ended::Killed(9).code(), 137);
        assert_eq!(Ended::Exited(3).code(), 3);
    }

    #[test]
    fn a_zombie_tells_its_end_and_nothing_else_does() {
        let stat = |state: &str, threads: i32, code: i32| {
            let between = "1 ".repeat(16);
            let rest = "0 ".repeat(31);
            format!("7 (a) Z (b) {state} {between}{threads} {rest}{code}\n")
        };
        assert_eq!(kept_end(&stat("Z", 1, 3 << 8)), Some(Ended::Exited(3)));
        assert_eq!(kept_end(&stat("Z", 1, 9)), Some(Ended::Killed(9)));
        assert_eq!(kept_end(&stat("S", 1, 0)), None);
        // Its first thread has ended, others run.
        assert_eq!(kept_end(&stat("Z", 2, 0)), None);
        assert_eq!(kept_end("7 (a"), None);
    }

    #[test]
    fn a_process_that_is_no_child_is_none() {
        let mut other = std::process::Command::new("true").spawn().unwrap();
        let found = child(i32::try_from(other.id()).unwrap()).unwrap();
        assert_eq!(wait(found.pidfd.as_fd()).unwrap(), Ended::Exited(0));
        for pid in [0, -1, 1, found.pid] {
            assert!(child(pid).is_err(), "{pid}");
            assert!(signal_child(pid, 0).is_err(), "{pid}");
            assert!(reap(pid).is_err(), "{pid}");
        }
        let _ = other.wait();
    }

    #[test]
    fn a_child_is_signalled_and_reaped_by_its_number() {
        let mut other = std::process::Command::new("sleep").arg("1000").spawn();
        let pid = i32::try_from(other.as_mut().unwrap().id()).unwrap();
        assert_eq!(reap(pid).unwrap(), None);
        signal_child(pid, SIGKILL).unwrap();
        while !has_ended(child(pid).unwrap().pidfd.as_fd()).unwrap() {}
        signal_child(pid, SIGKILL).unwrap();
        assert_eq!(reap(pid).unwrap(), Some(Ended::Killed(9)));
        assert!(reap(pid).is_err());
    }
}
