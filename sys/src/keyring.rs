//! Session keyrings (keyrings(7), session-keyring(7)).

use std::{ffi::CStr, io};

/// linux/keyctl.h
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
const KEYCTL_SETPERM: libc::c_int = 5;

/// Everything, for who possesses the key.
pub const POSSESSOR_ALL: u32 = 0x3f00_0000;
/// Whoever has the user id of the key may find it by its name.
pub const USER_SEARCH: u32 = 0x0008_0000;

/// Gives this process the session keyring of that name, made if its user may find none in the user namespace. What it starts
/// has it, too.
pub fn join_session(name: &CStr) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads a C string, which outlives the call.
    let key =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    match key {
        -1 => Err(io::Error::last_os_error()),
        key => Ok(key),
    }
}

/// Sets who may do what with a key.
pub fn set_permissions(key: libc::c_long, permissions: u32) -> io::Result<()> {
    // SAFETY: it takes two integers.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, permissions) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::CString, sync::Barrier};

    use super::*;
    use crate::thread;

    #[test]
    fn one_name_is_one_keyring() {
        let name = CString::new(format!("corten-test-{}", std::process::id())).unwrap();
        let (made, found) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                let key = join_session(&name).unwrap();
                set_permissions(key, POSSESSOR_ALL | USER_SEARCH).unwrap();
                made.wait();
                // Its last user takes it along.
                found.wait();
                key
            });
            made.wait();
            let key = thread::disposable("finder", || join_session(&name)).unwrap();
            found.wait();
            assert_eq!(key.unwrap(), maker.join().unwrap());
        });
    }
}
