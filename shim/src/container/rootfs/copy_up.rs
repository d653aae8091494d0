//! Copies a directory with all that is in it: kinds, contents, hard links, owners, modes, extended attributes and times.
//!
//! Nothing runs in either directory yet. What an image holds may still be hostile: every path is opened below one of two
//! descriptors, and no symlink is followed. There is no recursion and no descriptor per level.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
        XattrFlags, chmodat, chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat,
        futimens, linkat, mkdirat, mknodat, openat2, readlinkat, statat, symlinkat, utimensat,
    },
    io::Errno,
};

use crate::failure::{Doing, Result};

/// As long as the kernel allows (xattr(7)).
const MAX_XATTR: usize = 64 << 10;

/// Copies what is in `from`, and how it looks, to `to`, an empty directory. `name` is for messages.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &str) -> Result<()> {
    let mut copying = Copying {
        from,
        to,
        links: HashMap::new(),
    };
    let mut directories = vec![PathBuf::from(".")];
    let mut next = 0;
    while next < directories.len() {
        let path = directories[next].clone();
        let below = copying
            .directory(&path)
            .doing("copy up", Path::new(name).join(&path).display())?;
        directories.extend(below);
        next += 1;
    }
    // What was made in them has changed their times.
    for path in directories.iter().rev() {
        copying
            .set_times(path)
            .doing("set times", Path::new(name).join(path).display())?;
    }
    Ok(())
}

struct Copying<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// Where files with several names went, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copying<'_> {
    /// Copies one directory's look and entries. Returns the directories in it, which are made and empty.
    fn directory(&mut self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let from = open(self.from, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let to = open(self.to, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        set_look(&from, &to, &fstat(&from)?)?;
        let mut below = Vec::new();
        for entry in Dir::read_from(&from)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let stat = statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let whole = path.join(name);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                mkdirat(&to, name, Mode::RWXU)?;
                below.push(whole);
            } else if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                linkat(self.to, first, &to, name, AtFlags::empty())?;
            } else {
                entry_of(&from, &to, name, &stat)?;
                if stat.st_nlink > 1 {
                    self.links.insert((stat.st_dev, stat.st_ino), whole);
                }
            }
        }
        Ok(below)
    }

    fn set_times(&self, path: &Path) -> io::Result<()> {
        let from = open(self.from, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let to = open(self.to, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(futimens(&to, &times(&fstat(&from)?))?)
    }
}

/// Copies one entry that is not a directory.
fn entry_of(from: &OwnedFd, to: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<()> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return file(from, to, name, stat),
        FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
        kind => mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?,
    }
    chownat(
        to,
        name,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        nofollow,
    )?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        chmodat(
            to,
            name,
            Mode::from_raw_mode(stat.st_mode & 0o7777),
            AtFlags::empty(),
        )?;
    }
    Ok(utimensat(to, name, &times(stat), nofollow)?)
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<()> {
    let name = Path::new(name);
    let source = File::from(open(from.as_fd(), name, OFlags::RDONLY)?);
    let create =
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = File::from(rustix::fs::openat(
        to,
        name,
        create,
        Mode::RUSR | Mode::WUSR,
    )?);
    io::copy(&mut &source, &mut &target)?;
    set_look(&source, &target, stat)?;
    Ok(futimens(&target, &times(stat))?)
}

/// Owner, mode and extended attributes, in this order: each takes back parts of the next.
fn set_look(from: impl AsFd, to: impl AsFd, stat: &Stat) -> io::Result<()> {
    fchown(
        &to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut names = vec![0; MAX_XATTR];
    let length = match flistxattr(&from, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let names = names[..length].split(|byte| *byte == 0);
    // SELinux labels a file for the place where it is made.
    for name in names.filter(|name| !name.is_empty() && *name != b"security.selinux") {
        let mut value: Vec<MaybeUninit<u8>> = vec![MaybeUninit::uninit(); MAX_XATTR];
        let (value, _) = fgetxattr(&from, name, &mut value[..])?;
        match fsetxattr(&to, name, value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {}
            result => result?,
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or_default(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn open(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(openat2(dir, path, flags, Mode::empty(), resolve)?)
}
