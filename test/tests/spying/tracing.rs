//! A spy that takes what it reaches: descriptors (pidfd_getfd(2)) and whole processes (ptrace(2)), which then do what it says.

use std::{
    collections::HashSet,
    fs,
    io::IoSlice,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use nix::{
    libc::{self, c_long, user_regs_struct},
    sys::{
        ptrace::{self, Options},
        uio::{RemoteIoVec, process_vm_writev},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::{is_ours, is_pods, shared_memory};

/// Abstract name, without its first byte, of a socket of the host's.
pub(crate) const HOSTS_SOCKET: &str = "corten-spied-on";
/// Descriptors that are tried: those of a shim's child are a few.
const DESCRIPTORS: i32 = 64;
/// The kinds of acts on a process, in turns: so that not each is brought down by the first.
const KINDS: usize = 4;
/// The instruction `syscall`, and its length.
const SYSCALL: c_long = 0x050f;
const INSTRUCTION: u64 = 2;
/// Of the stack, below what is in use and the red zone.
const BELOW: u64 = 4096;

/// What was taken already.
#[derive(Debug, Default)]
pub(crate) struct Traced {
    processes: HashSet<String>,
    /// Process 1 stays, and is taken so often.
    pods: usize,
    /// Those that have done what they were told, or were written to.
    pub(crate) acts: usize,
}

/// Takes all that can be had of a process of ours, and says what of it is the host's.
pub(crate) fn take(pid: &str, traced: &mut Traced) -> Vec<String> {
    let dir = PathBuf::from("/proc").join(pid);
    let number: i32 = pid.parse().unwrap();
    let mut found = Vec::new();
    if is_pods(&dir) {
        traced.pods += 1;
        if traced.pods <= 3 {
            found = descriptors(number);
            found.extend(order(number, &mut traced.acts));
        }
        return found;
    }
    let taken = descriptors(number);
    if !is_ours(&dir) || traced.processes.contains(pid) {
        return found;
    }
    found = taken;
    traced.processes.insert(pid.into());
    match traced.processes.len() % KINDS {
        0 => overwrite(number, &dir, &mut traced.acts),
        1 => found.extend(order(number, &mut traced.acts)),
        // As it is set up without a spy.
        _ => {}
    }
    found
}

/// Descriptors of the process that are neither a stream's nor a pipe, by what they are here.
fn descriptors(pid: i32) -> Vec<String> {
    let process = rustix::process::Pid::from_raw(pid);
    let Some(Ok(process)) = process.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        return Vec::new();
    };
    let taken = (0..DESCRIPTORS).filter_map(|number| {
        let taken = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()?;
        let target = fs::read_link(format!("/proc/self/fd/{}", taken.as_raw_fd())).ok()?;
        let target = target.display().to_string();
        let is_usual = target.starts_with("pipe:") || target == "/dev/null";
        // Before Linux 6.17 a proc is opened in the PID namespace that it shows, by a process without rights. What becomes of
        // it is looked at outside before it is mounted.
        let is_proc = target == "anon_inode:[fscontext]" && !knows_pidns();
        (!is_usual && !is_proc).then(|| format!("its descriptor {number} is {target}"))
    });
    taken.collect()
}

/// Whether proc has the option that names the PID namespace (Linux 6.17).
fn knows_pidns() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(17))
}

/// Writes over its stack and all that it shares (process_vm_writev(2)).
fn overwrite(pid: i32, dir: &Path, acts: &mut usize) {
    let maps = fs::read_to_string(dir.join("maps")).unwrap_or_default();
    let stack = maps.lines().find(|line| line.ends_with("[stack]"));
    let range = stack.and_then(|line| line.split_whitespace().next()?.split_once('-'));
    let parsed = range.and_then(|(begin, end)| {
        let number = |text| usize::from_str_radix(text, 16).ok();
        Some((number(begin)?, number(end)?))
    });
    let stack = parsed.map(|(begin, end)| (begin, end - begin));
    let shared = shared_memory(dir).into_iter();
    let shared = shared.filter_map(|(_, begin)| Some((usize::try_from(begin).ok()?, 4096)));
    for (base, len) in shared.chain(stack) {
        let words = 1_u32.to_ne_bytes().repeat(len / 4);
        let there = [RemoteIoVec { base, len }];
        let written = process_vm_writev(Pid::from_raw(pid), &[IoSlice::new(&words)], &there);
        *acts += usize::from(written.is_ok());
    }
}

/// Has the process connect to a socket of the host's, and have a child, which no process does by itself that is being set up or
/// that is a pod's process 1.
fn order(pid: i32, acts: &mut usize) -> Vec<String> {
    let mut found = Vec::new();
    let pid = Pid::from_raw(pid);
    let Some(tracee) = Tracee::seize(pid) else {
        return found;
    };
    let address = [&1_u16.to_ne_bytes()[..], b"\0", HOSTS_SOCKET.as_bytes()].concat();
    let length = u64::try_from(address.len()).unwrap();
    let at = (tracee.before.rsp & !7) - BELOW;
    let socket = [1, 1, 0]; // AF_UNIX, SOCK_STREAM
    let connected = (|| {
        for (word, at) in address.chunks(8).zip((at..).step_by(8)) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            let word = c_long::from_ne_bytes(bytes);
            ptrace::write(pid, at as ptrace::AddressType, word).ok()?;
        }
        let socket = tracee.call(libc::SYS_socket, socket)?;
        let socket = u64::try_from(socket).ok()?;
        let connected = tracee.call(libc::SYS_connect, [socket, at, length])?;
        tracee.call(libc::SYS_close, [socket, 0, 0])?;
        Some(connected)
    })();
    *acts += usize::from(connected.is_some());
    if connected == Some(0) {
        found.push("it has reached a socket of the host's".into());
    }
    if is_pods(&PathBuf::from(format!("/proc/{pid}"))) {
        let child = tracee.call(libc::SYS_clone, [17, 0, 0]); // SIGCHLD
        if child.is_some_and(|child| child > 0) {
            found.push("the pod's process 1 has a child, which no container answers for".into());
        }
    }
    drop(tracee);
    found
}

/// A process that is traced by this thread, and stopped; it goes on when this is dropped.
struct Tracee {
    pid: Pid,
    before: user_regs_struct,
}

impl Tracee {
    /// `None` where that is not allowed, or the process has ended.
    fn seize(pid: Pid) -> Option<Self> {
        ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).ok()?;
        ptrace::interrupt(pid).ok()?;
        stopped(pid)?;
        let before = ptrace::getregs(pid).ok()?;
        let tracee = Self { pid, before };
        // It may be between two calls.
        let last = ptrace::read(pid, (before.rip - INSTRUCTION) as ptrace::AddressType).ok()?;
        (last & 0xffff == SYSCALL).then_some(tracee)
    }

    /// Has the process make a system call. It has stopped behind one: these come before execve one after the other.
    fn call(&self, number: c_long, arguments: [u64; 3]) -> Option<i64> {
        let mut registers = self.before;
        registers.rip -= INSTRUCTION;
        let number = u64::try_from(number).ok()?;
        // No call is to be restarted.
        (registers.rax, registers.orig_rax) = (number, u64::MAX);
        [registers.rdi, registers.rsi, registers.rdx] = arguments;
        (registers.r10, registers.r8, registers.r9) = (0, 0, 0);
        ptrace::setregs(self.pid, registers).ok()?;
        // At its begin, and at its end.
        for _ in 0..2 {
            ptrace::syscall(self.pid, None).ok()?;
            match stopped(self.pid)? {
                WaitStatus::PtraceSyscall(_) => {}
                _ => return None,
            }
        }
        Some(ptrace::getregs(self.pid).ok()?.rax.cast_signed())
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let mut registers = self.before;
        // An interrupted call (ERESTARTSYS to ERESTART_RESTARTBLOCK in the kernel's include/linux/errno.h) is made again.
        if (-516..=-512).contains(&registers.rax.cast_signed()) {
            registers.rax = registers.orig_rax;
            registers.rip -= INSTRUCTION;
            registers.orig_rax = u64::MAX;
        }
        let _ = ptrace::setregs(self.pid, registers);
        let _ = ptrace::detach(self.pid, None);
    }
}

/// Waits for its next stop; `None` for its end.
fn stopped(pid: Pid) -> Option<WaitStatus> {
    match waitpid(pid, Some(nix::sys::wait::WaitPidFlag::__WALL)).ok()? {
        WaitStatus::Exited(..) | WaitStatus::Signaled(..) => None,
        status => Some(status),
    }
}
