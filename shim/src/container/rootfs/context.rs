//! SELinux labels of files: as a mount's option for file systems that are made for the container, file by file for what a
//! volume's owner has had relabelled.
//!
//! Others may write in a volume meanwhile. No symlink is followed: a directory is opened below the volume's root, and what is
//! in it is labelled by its bare name, from within.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use corten_proto::shim::FailureKind;
use corten_sys::open::openat2;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags, fsetxattr,
        fstat, lgetxattr, lsetxattr, setxattr, stat, statat,
    },
    io::Errno,
    path::Arg,
    process::{chdir, fchdir},
};

use crate::failure::{Doing, Result, failure};

const ATTRIBUTE: &str = "security.selinux";
/// As long as the kernel allows a label to be (PAGE_SIZE).
const MAX_LABEL: usize = 4096;
/// The host's own, whose new labels its services could not read.
const NOT_RELABELLED: [&str; 27] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/lib",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/tmp",
];

/// The option for a new file system's label; none without a label.
pub(super) fn option(label: &str) -> Option<(&str, Option<&str>)> {
    (!label.is_empty()).then_some(("context", Some(label)))
}

/// Labels the directory at the root of a mount, without the categories: what is made in it has those of its maker.
pub(super) fn share_directory(mount: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    let directory = open(mount, Path::new("."))?;
    let parts: Vec<_> = label.split(':').take(4).collect();
    let label = parts.join(":");
    let set = fsetxattr(&directory, ATTRIBUTE, label.as_bytes(), XattrFlags::empty());
    match set {
        Err(Errno::OPNOTSUPP) => Ok(()),
        set => Ok(set?),
    }
}

/// Labels everything in `tree`, and its root last: where that has the label, all has it. A file system without labels has
/// none to be changed. `name` is for messages.
pub(super) fn relabel(tree: BorrowedFd<'_>, name: &str, label: &str) -> Result<()> {
    let done = refuse_the_hosts(tree).and_then(|()| match is_directory(tree)? {
        true => relabel_directory(tree, label),
        // A magic link leads to what the descriptor is open on, and nowhere else.
        false => set(&*format!("/proc/self/fd/{}", tree.as_raw_fd()), label, true),
    });
    // The working directory is nowhere in a volume afterwards.
    chdir("/").doing("enter", "/")?;
    done.map_err(|error| {
        let mut failure = failure(FailureKind::FailureInvalid, "relabel", name, &error);
        if failure.hint.is_empty() {
            failure.hint = format!("with {label}");
        }
        failure
    })
}

/// By identity: paths have many spellings.
fn refuse_the_hosts(tree: BorrowedFd<'_>) -> io::Result<()> {
    let volume = fstat(tree)?;
    let is_same = |stat: Stat| (stat.st_dev, stat.st_ino) == (volume.st_dev, volume.st_ino);
    match NOT_RELABELLED
        .into_iter()
        .find(|path| stat(*path).is_ok_and(is_same))
    {
        Some(path) => Err(io::Error::other(format!(
            "{path} is the host's, whose services need its labels"
        ))),
        None => Ok(()),
    }
}

fn is_directory(tree: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(tree)?.st_mode).is_dir())
}

fn relabel_directory(tree: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    fchdir(open(tree, Path::new("."))?)?;
    let mut value = [0_u8; MAX_LABEL];
    let length = lgetxattr(".", ATTRIBUTE, &mut value).unwrap_or_default();
    let present = &value[..length];
    if present.strip_suffix(&[0]).unwrap_or(present) == label.as_bytes() {
        return Ok(());
    }
    // Refused before it is looked at, where there are no labels: a whole tree need not be walked for that.
    if lsetxattr(".", ATTRIBUTE, present, XattrFlags::empty()) == Err(Errno::OPNOTSUPP) {
        return Ok(());
    }
    let mut directories = vec![PathBuf::from(".")];
    while let Some(path) = directories.pop() {
        let directory = match open(tree, &path) {
            Ok(directory) => directory,
            // Removed, or no directory any more.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(errno) => return Err(errno.into()),
        };
        fchdir(&directory)?;
        directories.extend(relabel_entries(&directory, label, &path)?);
    }
    fchdir(open(tree, Path::new("."))?)?;
    set(".", label, false)
}

/// Labels what is in the working directory. Returns the directories among it, below `path`.
fn relabel_entries(directory: &OwnedFd, label: &str, path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut below = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        set(name, label, false)?;
        let kind = match entry.file_type() {
            FileType::Unknown => statat(CWD, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| {
                    FileType::from_raw_mode(stat.st_mode)
                }),
            kind => kind,
        };
        if kind.is_dir() {
            below.push(path.join(OsStr::from_bytes(name.to_bytes())));
        }
    }
    Ok(below)
}

/// Succeeds on what is not there any more, and on what has no labels: another file system may be mounted in a volume.
fn set(path: impl Arg, label: &str, follow: bool) -> io::Result<()> {
    let (label, flags) = (label.as_bytes(), XattrFlags::empty());
    let done = match follow {
        true => setxattr(path, ATTRIBUTE, label, flags),
        false => lsetxattr(path, ATTRIBUTE, label, flags),
    };
    match done {
        Ok(()) | Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn open(tree: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(tree, path, flags, Mode::empty(), resolve)
}
