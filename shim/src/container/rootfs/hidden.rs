//! Paths of the kernel that a container does not see, or may not change. One that is not there needs no hiding.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use corten_sys::{
    mount::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY},
    root::Root,
};
use nix::libc;
use rustix::fs::{FileType, fstat};

use super::{context, device};
use crate::failure::{Doing, Result, invalid};

const LOCKED: u64 = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;

/// Binds each path on itself, read-only.
pub(super) fn make_readonly(root: &Root, paths: &[String]) -> Result<()> {
    for path in paths {
        let Some(place) = locate(root, path)? else {
            continue;
        };
        let tree = mount::clone_tree_at(place.as_fd(), true).doing("open_tree", path)?;
        mount::set_attributes(tree.as_fd(), ATTR_RDONLY, 0, true).doing("make read-only", path)?;
        mount::attach(tree.as_fd(), place.as_fd()).doing("attach read-only", path)?;
    }
    Ok(())
}

/// Puts an empty read-only directory over each directory, and the null device over everything else.
pub(super) fn mask(root: &Root, paths: &[String], label: &str) -> Result<()> {
    let (mut empty, mut null) = (None, None);
    for path in paths {
        let Some(place) = locate(root, path)? else {
            continue;
        };
        let mode = fstat(&place).doing("stat", path)?.st_mode;
        let cover = if FileType::from_raw_mode(mode) == FileType::Directory {
            &mut empty
        } else {
            &mut null
        };
        let copy = match cover {
            // Only a mount that is attached can be copied on every kernel, so the first is made and the others are copies.
            Some(first) => mount::clone_tree_at(OwnedFd::as_fd(first), false)
                .doing("copy the mask for", path)?,
            None if FileType::from_raw_mode(mode) == FileType::Directory => empty_directory(label)?,
            None => null_device(root)?,
        };
        mount::attach(copy.as_fd(), place.as_fd()).doing("mask", path)?;
        cover.get_or_insert(copy);
    }
    Ok(())
}

fn empty_directory(label: &str) -> Result<OwnedFd> {
    let options = [("size", Some("4k")), ("source", Some("tmpfs"))];
    let options: Vec<_> = options.into_iter().chain(context::option(label)).collect();
    mount::new_filesystem("tmpfs", &options, LOCKED).doing("mount", "tmpfs for masks")
}

/// A copy of the container's /dev/null. What an image or a volume puts there instead is not used.
fn null_device(root: &Root) -> Result<OwnedFd> {
    let null = root
        .locate(Path::new("/dev/null"))
        .doing("open", "/dev/null")?;
    let stat = fstat(&null).doing("stat", "/dev/null")?;
    if !device::is_null(&stat) {
        return Err(invalid(
            "mask paths with",
            "/dev/null",
            "it is not the null device in this container",
        ));
    }
    let copy = mount::clone_tree_at(null.as_fd(), false).doing("open_tree", "/dev/null")?;
    // Reading a masked file gives nothing, and no error: no `nodev`. Its mode cannot be changed.
    mount::set_attributes(copy.as_fd(), LOCKED & !ATTR_NODEV, 0, false)
        .doing("make read-only", "/dev/null")?;
    Ok(copy)
}

fn locate(root: &Root, path: &str) -> Result<Option<OwnedFd>> {
    match root.locate(Path::new(path)) {
        Ok(place) => Ok(Some(place)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error).doing("open", path),
    }
}

/// A part of the path is missing, or a file.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}
