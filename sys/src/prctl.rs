//! prctl(2), what is needed of it.

use std::{ffi::CStr, io};

/// Nobody without CAP_SYS_PTRACE may look into this process.
pub fn set_undumpable() -> io::Result<()> {
    call(libc::PR_SET_DUMPABLE, 0, 0)
}

/// Capabilities survive a change of the user ids until execve.
pub fn keep_capabilities(keep: bool) -> io::Result<()> {
    call(libc::PR_SET_KEEPCAPS, u64::from(keep), 0)
}

pub fn set_no_new_privileges() -> io::Result<()> {
    call(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Takes a capability out of the bounding set for good.
pub fn drop_bounding(capability: u8) -> io::Result<()> {
    call(libc::PR_CAPBSET_DROP, capability.into(), 0)
}

pub fn clear_ambient() -> io::Result<()> {
    call(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL.cast_unsigned().into(),
        0,
    )
}

pub fn raise_ambient(capability: u8) -> io::Result<()> {
    call(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_RAISE.cast_unsigned().into(),
        capability.into(),
    )
}

/// Orphans below this process become its children, not those of the host's init.
pub fn set_child_subreaper() -> io::Result<()> {
    call(libc::PR_SET_CHILD_SUBREAPER, 1, 0)
}

/// This process is killed when its parent ends, also after execve.
pub fn end_with_parent() -> io::Result<()> {
    call(
        libc::PR_SET_PDEATHSIG,
        libc::SIGKILL.cast_unsigned().into(),
        0,
    )
}

/// The name in `comm`, at most 15 bytes.
pub fn set_name(name: &CStr) -> io::Result<()> {
    // SAFETY: PR_SET_NAME reads a C string, which outlives the call.
    let result = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn call(option: i32, first: u64, second: u64) -> io::Result<()> {
    // SAFETY: every caller's option takes integers alone.
    let result = unsafe { libc::prctl(option, first, second, 0u64, 0u64) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
