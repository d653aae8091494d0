//! Loading a compiled seccomp filter (seccomp(2)).

use std::io;

/// include/uapi/linux/bpf_common.h, BPF_MAXINSNS.
const MAX_INSTRUCTIONS: usize = 4096;
const FLAGS: u32 = 1 << 1 | 1 << 2;
const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// Filters the system calls of this thread from now on. `filter` is an array of `struct sock_filter`, `flags` are
/// SECCOMP_FILTER_FLAG_* of those that change the filter alone: LOG and SPEC_ALLOW.
///
/// # Errors
/// EINVAL for bytes that are not a filter; EACCES without no_new_privs and without CAP_SYS_ADMIN.
pub fn load(filter: &[u8], flags: u32) -> io::Result<()> {
    let count = filter.len() / INSTRUCTION;
    if flags & !FLAGS != 0
        || !filter.len().is_multiple_of(INSTRUCTION)
        || count == 0
        || count > MAX_INSTRUCTIONS
    {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    install(
        filter.chunks_exact(INSTRUCTION).map(instruction).collect(),
        flags,
    )
}

/// Refuses this thread all system calls but these from now on, with EPERM. It needs no_new_privs or CAP_SYS_ADMIN.
pub fn allow_only(calls: &[libc::c_long]) -> io::Result<()> {
    // struct seccomp_data: number, architecture.
    let load = |offset| instruction_of(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset);
    let answer = |value| instruction_of(libc::BPF_RET | libc::BPF_K, 0, value);
    // Unless it is equal, the next one is jumped over.
    let is = |value| instruction_of(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, value);
    let refuse = answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned());
    // Numbers mean other calls where the architecture is another one. Those of x32, which has x86_64's, have a bit more.
    let over_one = instruction_of(libc::BPF_JMP | libc::BPF_JA, 0, 1);
    let mut instructions = vec![load(4), is(ARCH), over_one, refuse, load(0)];
    for call in calls {
        let number = u32::try_from(*call).map_err(io::Error::other)?;
        instructions.extend([is(number), answer(libc::SECCOMP_RET_ALLOW)]);
    }
    instructions.push(refuse);
    install(instructions, 0)
}

/// include/uapi/linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

fn install(mut instructions: Vec<libc::sock_filter>, flags: u32) -> io::Result<()> {
    let len = u16::try_from(instructions.len())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog {
        len,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: `program` points to `len` instructions that outlive the call; the kernel checks what they do.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn instruction_of(code: u32, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        // Codes are of 8 bits.
        code: u16::from(code.to_le_bytes()[0]),
        jt: 0,
        jf,
        k,
    }
}

fn instruction(bytes: &[u8]) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_a_filter_are_refused() {
        assert!(load(&[], 0).is_err());
        assert!(load(&[0; 7], 0).is_err());
        assert!(load(&[0; 8], 1).is_err());
    }

    #[test]
    fn only_what_is_allowed_can_be_called() {
        let apart = || {
            crate::prctl::set_no_new_privileges().unwrap();
            // What the thread itself needs to end, and one to ask for.
            let calls = [
                libc::SYS_getppid,
                libc::SYS_munmap,
                libc::SYS_madvise,
                libc::SYS_sigaltstack,
                libc::SYS_rt_sigprocmask,
                libc::SYS_futex,
                libc::SYS_rseq,
                libc::SYS_set_robust_list,
                libc::SYS_exit,
            ];
            allow_only(&calls).unwrap();
            let allowed = rustix::process::getppid().is_some();
            let session = rustix::process::getsid(None).err();
            (allowed, rustix::pipe::pipe().err(), session)
        };
        let (allowed, pipe, session) = crate::thread::disposable("filtered", apart).unwrap();
        assert!(allowed);
        let refused = Some(rustix::io::Errno::PERM);
        assert_eq!((pipe, session), (refused, refused));
    }
}
