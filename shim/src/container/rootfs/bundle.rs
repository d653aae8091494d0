//! Places in a bundle, which is ours alone, for what an external runtime takes from there.

use std::{
    fs::{self, File},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use corten_sys::mount;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::failure::{Doing, Result};

/// Attaches a detached mount on `place`, which is made.
pub(super) fn attach(mount: BorrowedFd<'_>, place: &Path, is_directory: bool) -> Result<()> {
    let fd = make(place, is_directory)?;
    mount::attach(mount, fd.as_fd()).doing("attach mount", place.display())
}

/// Makes a directory or a file, and opens it as a place.
pub(super) fn make(place: &Path, is_directory: bool) -> Result<OwnedFd> {
    let directory = if is_directory {
        Some(place)
    } else {
        place.parent()
    };
    if let Some(directory) = directory {
        fs::create_dir_all(directory).doing("make", directory.display())?;
    }
    if !is_directory {
        File::create(place).doing("make", place.display())?;
    }
    openat(CWD, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing("open", place.display())
}
