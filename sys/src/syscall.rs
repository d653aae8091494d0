//! System calls by number, with arguments that no call can do anything with: for tests of filters.

use std::io;

/// Numbers without arguments that could be refused, or to which all ones are a request.
#[cfg(target_arch = "x86_64")]
const LEFT_OUT: &[libc::c_long] = &[
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_rt_sigreturn,
    libc::SYS_pause,
    libc::SYS_setsid,
    libc::SYS_sync,
    libc::SYS_vhangup,
    // Makes a queue of any key.
    libc::SYS_msgget,
    // uretprobe and uprobe, which are for the kernel's own trampolines: a signal otherwise.
    335,
    336,
];
#[cfg(not(target_arch = "x86_64"))]
const LEFT_OUT: &[libc::c_long] = &[
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_setsid,
    libc::SYS_sync,
    libc::SYS_vhangup,
    libc::SYS_msgget,
];

/// Calls `number` with -1 for all six arguments. None for those calls that would heed them.
///
/// Some change the process all the same: the file mode creation mask, timers, identities in `-1`'s meaning "as it is".
/// So it is for a process that ends soon.
pub fn nonsense(number: u32) -> Option<io::Result<()>> {
    let number = libc::c_long::from(number);
    if LEFT_OUT.contains(&number) {
        return None;
    }
    // SAFETY: the address -1 is in nobody's memory, not aligned and at the end of the address space, so no call reads,
    // writes, maps or unmaps anything through it; flags of all ones are refused, as is the length; and the calls that
    // take no argument, or for which -1 means something that is felt in this process's memory or flow, are left out.
    let result = unsafe { libc::syscall(number, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64) };
    Some(if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    })
}

/// Sets the execution domain (personality(2)) and returns the former; all ones of 32 bits ask for it only.
pub fn personality(persona: u32) -> io::Result<u32> {
    // SAFETY: it takes an integer, and what it changes is heard of at the next execve.
    let former = unsafe { libc::personality(persona.into()) };
    u32::try_from(former).map_err(|_negative| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_and_this_process_goes_on() {
        let errno = |number: libc::c_long| {
            let number = u32::try_from(number).unwrap();
            nonsense(number).map(|result| result.err().and_then(|error| error.raw_os_error()))
        };
        assert_eq!(errno(libc::SYS_close), Some(Some(libc::EBADF)));
        assert_eq!(errno(libc::SYS_unshare), Some(Some(libc::EINVAL)));
        assert_eq!(errno(libc::SYS_getpid), Some(None));
        assert_eq!(errno(2000), Some(Some(libc::ENOSYS)));
        assert_eq!(errno(libc::SYS_exit), None);
    }
}
