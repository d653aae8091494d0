//! Paths below a root whose missing parts are made, where dangling symlinks lead, too.
//!
//! No call of the kernel does that: mkdirat(2) follows no symlink at the end of a path, and openat2(2) makes no directory. So
//! a path is walked part by part, and each part is opened in the directory before it. The kernel follows nothing meanwhile: a
//! symlink's target takes the symlink's place in what is still to be walked, from the root on where it is absolute. Others
//! may change what lies in a volume. Then the walk ends with an error or elsewhere below the root, and never outside.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, mkdirat, openat,
        readlinkat,
    },
    io::Errno,
};

use crate::open::openat2;

/// Symlinks that one path may go through; as MAXSYMLINKS of the kernel.
const MAX_LINKS: u32 = 40;

/// Flags by which a part of the path is opened: itself, whatever it is.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

/// Last part of a path: a directory, or a file, with the mode of a new one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Directory,
    File(Mode),
}

/// Opens `path` below `root` as a place, and makes what is missing of it. `mode` is of directories. A directory that is there
/// in place of a file is opened, too.
pub(crate) fn make(root: BorrowedFd<'_>, path: &Path, mode: Mode, end: End) -> io::Result<OwnedFd> {
    let mut walk = Walk {
        root,
        mode,
        end,
        at: PathBuf::new(),
        dir: top(root, Path::new("."))?,
        ahead: Vec::new(),
        links: 0,
    };
    walk.put_ahead(path)?;
    Ok(walk.run()?)
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    mode: Mode,
    end: End,
    /// Path of `dir` below the root, without symlinks and `..`.
    at: PathBuf,
    dir: OwnedFd,
    /// Parts that are to come, the next one last.
    ahead: Vec<OsString>,
    links: u32,
}

impl Walk<'_> {
    fn run(mut self) -> Result<OwnedFd, Errno> {
        while let Some(part) = self.ahead.pop() {
            if part == ".." {
                // By name: the parent of a directory that was moved away meanwhile may be anywhere.
                self.at.pop();
                self.dir = top(self.root, &self.at)?;
                continue;
            }
            let found = match self.open(&part) {
                Err(Errno::NOENT) => match self.make(&part)? {
                    Some(file) => return Ok(file),
                    None => self.open(&part)?,
                },
                found => found?,
            };
            match FileType::from_raw_mode(fstat(&found)?.st_mode) {
                FileType::Directory => {
                    self.at.push(part);
                    self.dir = found;
                }
                FileType::Symlink => self.follow(&found, &part)?,
                _ if self.ahead.is_empty() && matches!(self.end, End::File(_)) => return Ok(found),
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(self.dir)
    }

    fn open(&self, part: &OsStr) -> Result<OwnedFd, Errno> {
        let inside = ResolveFlags::BENEATH;
        openat2(&self.dir, part, PLACE, Mode::empty(), inside)
    }

    /// Makes a part. A file is returned as it was made: it may be something else by its name already.
    fn make(&self, part: &OsStr) -> Result<Option<OwnedFd>, Errno> {
        let made = match self.end {
            End::File(mode) if self.ahead.is_empty() => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                openat(&self.dir, part, flags, mode).map(Some)
            }
            _ => mkdirat(&self.dir, part, self.mode).map(|()| None),
        };
        match made {
            Err(Errno::EXIST) => Ok(None),
            made => made,
        }
    }

    fn follow(&mut self, link: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        self.links += 1;
        if self.links > MAX_LINKS || self.is_magic(link, name)? {
            return Err(Errno::LOOP);
        }
        let target = readlinkat(link, "", Vec::new())?;
        self.put_ahead(Path::new(OsStr::from_bytes(target.as_bytes())))
    }

    fn put_ahead(&mut self, path: &Path) -> Result<(), Errno> {
        if path.has_root() {
            self.at = PathBuf::new();
            self.dir = top(self.root, &self.at)?;
        }
        let parts = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        let first = self.ahead.len();
        self.ahead.extend(parts);
        self.ahead[first..].reverse();
        Ok(())
    }

    /// Whether it leads to what a process has open or where it is, as in /proc/self/fd: its text means nothing.
    fn is_magic(&self, link: &OwnedFd, name: &OsStr) -> Result<bool, Errno> {
        if fstatfs(link)?.f_type != PROC_SUPER_MAGIC {
            return Ok(false);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let found = openat2(&self.dir, name, OFlags::PATH, Mode::empty(), resolve);
        Ok(matches!(found, Err(Errno::LOOP)))
    }
}

/// Opens a directory below the root that has neither symlinks nor `..` in its path.
fn top(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root.as_fd(), path, flags, Mode::empty(), resolve)
}
