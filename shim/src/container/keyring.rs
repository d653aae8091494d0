//! The container's session keyring, which is not the host's: its keys are for the container's processes alone.

use std::{ffi::CString, io};

use corten_sys::keyring::{POSSESSOR_ALL, USER_SEARCH, join_session, set_permissions};
use nix::libc;

use crate::failure::{Doing, Result};

/// Joins it, as root of the container's user namespace, whose quota it counts for. Init makes it. An exec finds it by its
/// name, as root alone may, and nobody else sees the name; or makes one, where the container has revoked it.
///
/// Whoever has used up root's quota, which containers share that have the host's users, must not keep others from their
/// start: that is told, and what they share instead is the daemon's, in which nothing is.
pub(super) fn join(container_id: &str, warnings: &mut Vec<String>) -> Result<()> {
    let name = format!("_ses.{container_id}");
    let text = CString::new(name.as_str()).map_err(io::Error::from);
    let joined = text.and_then(|text| {
        let key = join_session(&text)?;
        // An exec may find one whose permissions are no longer ours to set.
        let _ = set_permissions(key, POSSESSOR_ALL | USER_SEARCH);
        Ok(())
    });
    match joined {
        Err(error) if error.raw_os_error() == Some(libc::EDQUOT) => {
            warnings.push(format!(
                "no session keyring of its own: root's keys have used up kernel.keys.root_maxkeys or root_maxbytes ({error})"
            ));
            Ok(())
        }
        // A kernel without keys, or a filter around the daemon, which is around the container, too.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        joined => joined.doing("join session keyring", name),
    }
}
