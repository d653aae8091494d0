//! Where a mount goes in a container's root: found, or made where it is missing.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use corten_proto::shim::{Failure, FailureKind};
use corten_sys::{mount, open::openat2, root::Root};
use nix::libc;
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Statx, StatxFlags,
        fstatfs, statx,
    },
    io::Errno,
};

use super::{DIRECTORY, FILE};
use crate::failure::{Doing, Result, failure, invalid};

pub(super) const PROC: &str = "/proc";
/// Errnos of a path that cannot be made because of what the image, or a volume, has there.
const OF_THE_PATH: [i32; 9] = [
    libc::ENOTDIR,
    libc::ENOENT,
    libc::ELOOP,
    libc::ENAMETOOLONG,
    libc::EROFS,
    libc::EPERM,
    libc::EACCES,
    libc::EEXIST,
    libc::ESTALE,
];

/// Attaches a detached mount at `destination`, which is made as a directory or as a file where it is missing. `source` is what
/// messages call the mount.
pub(super) fn attach(
    root: &Root,
    mount: BorrowedFd<'_>,
    destination: &str,
    is_directory: bool,
    source: &str,
) -> Result<()> {
    let path = Path::new(destination);
    if destination == PROC {
        refuse_symlinks(root, destination)?;
    }
    let found = match root.locate(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => match is_directory {
            true => root.make_dir_all(path, DIRECTORY),
            false => root.make_file(path, FILE),
        },
        found => found,
    };
    let place = found.map_err(|error| not_made(destination, &error))?;
    check(root, &place, destination, is_directory, source)?;
    mount::attach(mount, place.as_fd()).doing("attach mount", destination)
}

/// Refuses a mount that an external runtime could not make at `destination`. A missing path is that runtime's to make.
pub(super) fn refuse_wrong(
    root: &Root,
    destination: &str,
    is_directory: bool,
    source: &str,
) -> Result<()> {
    match root.locate(Path::new(destination)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(not_made(destination, &error)),
        Ok(place) => check(root, &place, destination, is_directory, source),
    }
}

/// Failure of a mount point, or of a directory on the way to one, that could not be made.
pub(super) fn not_made(destination: &str, error: &io::Error) -> Failure {
    let is_of_the_path = error
        .raw_os_error()
        .is_some_and(|errno| OF_THE_PATH.contains(&errno));
    let kind = match is_of_the_path {
        true => FailureKind::FailureInvalid,
        false => FailureKind::FailureInternal,
    };
    failure(kind, "make mount point", destination, error)
}

/// An image whose /proc is a symlink would have its masked paths somewhere else than the kernel's files.
pub(super) fn refuse_symlinks(root: &Root, destination: &str) -> Result<()> {
    match without_symlinks(root, destination) {
        Err(Errno::LOOP) => Err(invalid(
            "mount",
            destination,
            "the image has a symlink there, and it has to be a directory",
        )),
        _ => Ok(()),
    }
}

fn without_symlinks(root: &Root, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    openat2(root, Path::new(path), OFlags::PATH, Mode::empty(), resolve)
}

fn check(
    root: &Root,
    place: &OwnedFd,
    destination: &str,
    is_directory: bool,
    source: &str,
) -> Result<()> {
    let found = look(place).doing("stat", destination)?;
    let there_is_directory = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
    if there_is_directory != is_directory {
        let kind = |is_directory| match is_directory {
            true => "a directory",
            false => "a file",
        };
        let hint = format!(
            "the source {source} is {}, and there is {} in the container",
            kind(is_directory),
            kind(there_is_directory)
        );
        return Err(invalid("mount on", destination, hint));
    }
    let top = look(root).doing("stat", "the root")?;
    if is_same(&found, &top) {
        let hint = "it leads to the root, which a mount cannot replace";
        return Err(invalid("mount on", destination, hint));
    }
    if is_unnamed_in_proc(root, place, &found, destination).doing("stat", destination)? {
        let hint = "a symlink of the image leads into /proc, which a mount cannot cover";
        return Err(invalid("mount on", destination, hint));
    }
    Ok(())
}

/// Whether the place lies in the container's /proc, and the destination does not say so: what may be mounted there, the plan
/// knows by the path. The host's /proc may be a volume elsewhere.
fn is_unnamed_in_proc(
    root: &Root,
    place: &OwnedFd,
    found: &Statx,
    destination: &str,
) -> io::Result<bool> {
    if fstatfs(place)?.f_type != PROC_SUPER_MAGIC {
        return Ok(false);
    }
    let Ok(proc) = root.locate(Path::new(PROC)) else {
        return Ok(false);
    };
    if look(&proc)?.stx_mnt_id != found.stx_mnt_id {
        return Ok(false);
    }
    let is_named = destination.starts_with("/proc/")
        && without_symlinks(root, destination)
            .and_then(|named| look(&named))
            .is_ok_and(|named| is_same(&named, found));
    Ok(!is_named)
}

fn look(file: impl AsFd) -> Result<Statx, Errno> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
    statx(&file, "", AtFlags::EMPTY_PATH, wanted)
}

fn is_same(one: &Statx, other: &Statx) -> bool {
    (one.stx_mnt_id, one.stx_ino) == (other.stx_mnt_id, other.stx_ino)
}
