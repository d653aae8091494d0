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
    let mut instructions: Vec<libc::sock_filter> =
        filter.chunks_exact(INSTRUCTION).map(instruction).collect();
    let len = u16::try_from(count).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
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
}
