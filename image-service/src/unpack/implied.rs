//! Directories that a layer only implies, by entries below them: they look as in the layers below.
//!
//! Layers are unpacked side by side, so this waits until all of an image are in hand, and goes bottom up.

use std::os::fd::OwnedFd;

use corten_sys::open::openat2;
use rustix::fs::{self, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::entry::is_kept;
use super::tree::OPAQUE;

const MAX_XATTRS: usize = 64 << 10;

/// Gives each directory of `implied` in `layer` what the nearest of the layers below has for it. `below` has the
/// topmost first. A directory that none of them has, or that is hidden there, stays as it is.
///
/// # Errors
/// Of the disk.
pub(crate) fn mend(layer: &OwnedFd, implied: &[Vec<u8>], below: &[OwnedFd]) -> Result<(), Errno> {
    for path in implied {
        let Sight::Directory { opaque_above } = look(layer, path)? else {
            // A later entry took its place.
            continue;
        };
        if opaque_above {
            continue;
        }
        if let Some(source) = find(path, below)? {
            copy(&source, &open(layer, path)?)?;
        }
    }
    Ok(())
}

/// What one layer has at a path.
enum Sight {
    Nothing {
        opaque_above: bool,
    },
    Directory {
        opaque_above: bool,
    },
    /// Something else at it or above it, or a whiteout.
    Hidden,
}

fn find(path: &[u8], below: &[OwnedFd]) -> Result<Option<OwnedFd>, Errno> {
    for layer in below {
        match look(layer, path)? {
            Sight::Directory { .. } => return open(layer, path).map(Some),
            Sight::Nothing {
                opaque_above: false,
            } => {}
            Sight::Nothing { opaque_above: true } | Sight::Hidden => return Ok(None),
        }
    }
    Ok(None)
}

fn look(layer: &OwnedFd, path: &[u8]) -> Result<Sight, Errno> {
    let mut opaque_above = false;
    if !path.is_empty() {
        let ends = (0..path.len()).filter(|at| path[*at] == b'/');
        for end in [0].into_iter().chain(ends) {
            match open(layer, &path[..end]) {
                Ok(directory) => opaque_above |= is_opaque(&directory)?,
                Err(errno) => return seen(errno, opaque_above),
            }
        }
    }
    match open(layer, path) {
        Ok(_) => Ok(Sight::Directory { opaque_above }),
        Err(errno) => seen(errno, opaque_above),
    }
}

fn seen(errno: Errno, opaque_above: bool) -> Result<Sight, Errno> {
    match errno {
        Errno::NOENT => Ok(Sight::Nothing { opaque_above }),
        Errno::NOTDIR | Errno::LOOP => Ok(Sight::Hidden),
        errno => Err(errno),
    }
}

fn open(layer: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    openat2(layer, path, flags, Mode::empty(), resolve)
}

fn is_opaque(directory: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match fs::fgetxattr(directory, OPAQUE, &mut value[..]) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let found = fs::fstat(from)?;
    let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    fs::fchown(to, Some(uid), Some(gid))?;
    fs::fchmod(to, Mode::from_raw_mode(found.st_mode & 0o7777))?;
    let mut names = vec![0; MAX_XATTRS];
    let length = fs::flistxattr(from, &mut names[..])?;
    for name in names[..length].split(|byte| *byte == 0) {
        if !name.is_empty() && is_kept(name) {
            let mut value = vec![0; MAX_XATTRS];
            let length = fs::fgetxattr(from, name, &mut value[..])?;
            fs::fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
        }
    }
    let mtime = Timespec {
        tv_sec: found.st_mtime,
        tv_nsec: i64::try_from(found.st_mtime_nsec).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: mtime,
        last_modification: mtime,
    };
    fs::futimens(to, &times)
}
