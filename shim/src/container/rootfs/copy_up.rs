//! Copies a directory with all that is in it: kinds, contents, hard links, owners, modes, extended attributes and times.
//!
//! Nothing runs in either directory yet. What an image holds may still be hostile: every path is opened below one of two
//! descriptors, and no symlink is followed. There is no recursion and no descriptor per level. Holes stay holes: a file that
//! takes nothing in the image can be of any size. What does take something is copied up to a limit.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec,
        Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown, fgetxattr, flistxattr,
        fsetxattr, fstat, ftruncate, futimens, linkat, mkdirat, mknodat, openat2, readlinkat, seek,
        statat, symlinkat, utimensat,
    },
    io::Errno,
};

use crate::failure::{Doing, Result};

/// As long as the kernel allows (xattr(7)).
const MAX_XATTR: usize = 64 << 10;

/// Most that is copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of files, holes not counted.
    data: u64,
    entries: u64,
}

/// Limits of all volumes of a container together.
pub(super) const LIMITS: Limits = Limits {
    data: 16 << 30,
    entries: 1 << 20,
};

impl Limits {
    fn take(left: &mut u64, amount: u64, what: &str) -> io::Result<()> {
        let rest = left.checked_sub(amount).ok_or_else(|| {
            io::Error::other(format!(
                "the image has too {what} in its volumes to be copied: mount volumes there, or set \
                 container.declared_volumes to \"ignore\""
            ))
        });
        *left = rest?;
        Ok(())
    }
}

/// Copies what is in `from`, and how it looks, to `to`, an empty directory. What is copied is taken off `limits`. `name` is
/// for messages.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    limits: &mut Limits,
    name: &str,
) -> Result<()> {
    let mut copying = Copying {
        from,
        to,
        limits,
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
    limits: &'a mut Limits,
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
            Limits::take(&mut self.limits.entries, 1, "many files")?;
            let stat = statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let whole = path.join(name);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                mkdirat(&to, name, Mode::RWXU)?;
                below.push(whole);
            } else if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                linkat(self.to, first, &to, name, AtFlags::empty())?;
            } else {
                entry_of(&from, &to, name, &stat, self.limits)?;
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
fn entry_of(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &OsStr,
    stat: &Stat,
    limits: &mut Limits,
) -> io::Result<()> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return file(from, to, name, stat, limits),
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

fn file(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &OsStr,
    stat: &Stat,
    limits: &mut Limits,
) -> io::Result<()> {
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
    content(&source, &target, limits)?;
    set_look(&source, &target, stat)?;
    Ok(futimens(&target, &times(stat))?)
}

/// Copies data to where it is in the source, and leaves the rest a hole (lseek(2), SEEK_DATA). A file system that does not know
/// of holes has data alone.
fn content(source: &File, target: &File, limits: &mut Limits) -> io::Result<()> {
    let length = u64::try_from(fstat(source)?.st_size).unwrap_or_default();
    ftruncate(target, length)?;
    let mut end = 0;
    loop {
        let start = match seek(source, SeekFrom::Data(end)) {
            // None behind.
            Err(Errno::NXIO) => return Ok(()),
            start => start?,
        };
        end = seek(source, SeekFrom::Hole(start))?;
        Limits::take(&mut limits.data, end.saturating_sub(start), "much data")?;
        seek(source, SeekFrom::Start(start))?;
        seek(target, SeekFrom::Start(start))?;
        let copied = io::copy(&mut source.take(end - start), &mut &*target)?;
        if copied == 0 {
            return Ok(());
        }
    }
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

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{FileExt, MetadataExt},
        path::PathBuf,
    };

    use super::*;

    /// A directory with a file of a TiB in which there are three bytes, and an empty one to copy it to.
    fn directories(name: &str) -> (PathBuf, File, File) {
        let dir = std::env::temp_dir().join(format!("corten-copy-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        for at in [0, 1 << 39, (1 << 40) - 1] {
            sparse.write_all_at(b"x", at).unwrap();
        }
        fs::write(from.join("empty"), "").unwrap();
        (dir, File::open(from).unwrap(), File::open(to).unwrap())
    }

    fn copied(from: &File, to: &File, data: u64, entries: u64) -> std::result::Result<(), String> {
        let mut limits = Limits { data, entries };
        copy(from.as_fd(), to.as_fd(), &mut limits, "/data").map_err(|failure| failure.hint)
    }

    #[test]
    fn holes_stay_holes() {
        let (dir, from, to) = directories("holes");
        copied(&from, &to, 1 << 20, 2).unwrap();
        let copy = File::open(dir.join("to/sparse")).unwrap();
        let metadata = copy.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 40);
        assert!(metadata.blocks() < 1024, "{} blocks", metadata.blocks());
        for (at, want) in [(0, b'x'), (1, 0), (1 << 39, b'x'), ((1 << 40) - 1, b'x')] {
            let mut byte = [1];
            copy.read_exact_at(&mut byte, at).unwrap();
            assert_eq!(byte, [want], "{at}");
        }
        assert_eq!(fs::read(dir.join("to/empty")).unwrap(), b"");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn there_is_a_limit() {
        let (dir, from, to) = directories("limit");
        let much = copied(&from, &to, 4096, 2).unwrap_err();
        assert!(much.contains("too much data"), "{much}");
        fs::remove_dir_all(dir).unwrap();
        let (dir, from, to) = directories("limit");
        let many = copied(&from, &to, 1 << 20, 1).unwrap_err();
        assert!(many.contains("too many files"), "{many}");
        fs::remove_dir_all(dir).unwrap();
    }
}
