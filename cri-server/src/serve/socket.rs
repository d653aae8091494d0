//! The socket that both services and the command line use: for root alone.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
};

use tokio::net::UnixListener;

use crate::error::{At, Error, Result};

/// Listens on `path`; a socket that nobody listens on any more is replaced.
pub(super) fn bind(path: &Path) -> Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(Error::State {
            subject: format!("socket {}", path.display()),
            state: "in use",
            need: "another server listens on it; give this one its own with --socket",
        });
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).at("create", dir)?;
    }
    if fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path).at("remove the old socket", path)?;
    }
    let listener = UnixListener::bind(path).at("listen on", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).at("set the mode of", path)?;
    Ok(listener)
}
