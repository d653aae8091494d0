//! Writing below one directory descriptor, wherever the names point.
//!
//! Every parent is opened by `openat2` with `RESOLVE_IN_ROOT`: a symbolic link that an earlier entry
//! made leads to a place inside the layer or nowhere. The last part of a name is never followed.
//! Nobody else writes here: the directory lies in staging, closed to all but root.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;

use corten_sys::open::openat2;
use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use super::name::Name;
use super::{BLOCK, Unpacked, Written};
use crate::store::Trash;

/// What ext4 keeps in the inode itself.
const SHORT_SYMLINK: usize = 59;
const EPOCH: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

#[derive(Debug)]
pub(super) struct Tree<'a> {
    root: OwnedFd,
    trash: &'a Trash,
    /// The last parent, since archives list a directory's entries together.
    parent: Option<(Vec<u8>, Arc<OwnedFd>)>,
    /// Times of directories, set last: making entries changes them. With the number of the entry that said so, since links give
    /// a directory many names, of which the last counts.
    times: HashMap<Vec<u8>, (usize, Timespec)>,
    timed: usize,
    /// Unit: bytes of all names that are kept until the end.
    kept: usize,
    written: Written,
    /// Directories that no entry has spoken of so far.
    implied: HashSet<Vec<u8>>,
    /// Where something was in the way of the last entry.
    superseded: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Attributes<'a> {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timespec,
    pub(super) xattrs: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: OwnedFd, trash: &'a Trash) -> Self {
        Self {
            root,
            trash,
            parent: None,
            times: HashMap::new(),
            timed: 0,
            kept: 0,
            written: Written {
                bytes: BLOCK,
                inodes: 1,
            },
            implied: HashSet::from([Vec::new()]),
            superseded: None,
        }
    }

    pub(super) fn set_root(&mut self, attributes: &Attributes<'_>) -> Result<(), Errno> {
        let root = self.open(b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.set(&root, attributes)?;
        self.implied.remove(&b""[..]);
        self.keep_time(b".".to_vec(), attributes.mtime);
        Ok(())
    }

    pub(super) fn directory(
        &mut self,
        name: &Name,
        attributes: &Attributes<'_>,
    ) -> Result<(), Errno> {
        let parent = self.parent(&name.parent)?;
        if !self.make_directory(&parent, &name.last)? {
            self.clear(&parent, name)?;
            self.make_directory(&parent, &name.last)?;
        }
        let directory = directory_in(&parent, &name.last, OFlags::RDONLY)?;
        self.set(&directory, attributes)?;
        let path = name.path();
        self.implied.remove(&path);
        self.keep_time(path, attributes.mtime);
        Ok(())
    }

    /// An empty file to write to; [`Tree::close`] gives it its attributes.
    pub(super) fn create(&mut self, name: &Name) -> Result<OwnedFd, Errno> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.replace(name, |parent, last| {
            fs::openat(parent, last, flags, Mode::RUSR | Mode::WUSR)
        })
    }

    pub(super) fn write_at(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let written = rustix::io::pwrite(file, bytes, at)?;
            bytes = &bytes[written..];
            at += u64::try_from(written).unwrap_or(0);
        }
        Ok(())
    }

    pub(super) fn close(
        &mut self,
        file: &OwnedFd,
        stored: u64,
        attributes: &Attributes<'_>,
    ) -> Result<(), Errno> {
        self.count(stored);
        self.set(file, attributes)?;
        fs::futimens(file, &times(attributes.mtime))
    }

    pub(super) fn symlink(
        &mut self,
        name: &Name,
        target: &[u8],
        attributes: &Attributes<'_>,
    ) -> Result<(), Errno> {
        let parent = self.replace(name, |parent, last| {
            fs::symlinkat(target, parent, last).map(|()| Arc::clone(parent))
        })?;
        let long = target.len() > SHORT_SYMLINK;
        self.count(if long { BLOCK } else { 0 });
        self.set_by_name(&parent, &name.last, attributes)
    }

    pub(super) fn node(
        &mut self,
        name: &Name,
        kind: FileType,
        (major, minor): (u32, u32),
        attributes: &Attributes<'_>,
    ) -> Result<(), Errno> {
        let device = fs::makedev(major, minor);
        let parent = self.replace(name, |parent, last| {
            fs::mknodat(parent, last, kind, Mode::empty(), device).map(|()| Arc::clone(parent))
        })?;
        self.count(0);
        self.set_by_name(&parent, &name.last, attributes)?;
        // It is no symbolic link: we made it a moment ago, and changing the owner clears setuid.
        fs::chmodat(
            &parent,
            &name.last[..],
            Mode::from_raw_mode(attributes.mode),
            AtFlags::empty(),
        )
    }

    /// The directory that holds `name`, which must exist.
    pub(super) fn find(&mut self, name: &Name) -> Result<Arc<OwnedFd>, Errno> {
        let parent = self.open(or_root(&name.parent), OFlags::PATH | OFlags::DIRECTORY)?;
        fs::statat(&parent, &name.last[..], AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Arc::new(parent))
    }

    pub(super) fn hardlink(
        &mut self,
        name: &Name,
        source: Arc<OwnedFd>,
        target: &[u8],
    ) -> Result<(), Errno> {
        let link = |parent: &Arc<OwnedFd>, last: &[u8]| {
            fs::linkat(&source, target, parent, last, AtFlags::empty())
        };
        let parent = self.parent(&name.parent)?;
        if same_entry(&parent, &name.last, &source, target) {
            return Ok(());
        }
        self.replace(name, link)
    }

    /// Hides `name` of the layers below. What this layer itself has there stays, alone.
    pub(super) fn whiteout(&mut self, name: &Name) -> Result<(), Errno> {
        let parent = match self.parent(&name.parent) {
            // What took the directory's place hides all of it. umoci lists what was in it even so.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            other => other?,
        };
        let device = fs::makedev(0, 0);
        match fs::mknodat(
            &parent,
            &name.last[..],
            FileType::CharacterDevice,
            Mode::empty(),
            device,
        ) {
            Ok(()) => {
                self.count(0);
                Ok(())
            }
            Err(Errno::EXIST) if is_directory(&parent, &name.last)? => {
                mark_opaque(&parent, &name.last)
            }
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Hides all that the layers below have in the directory.
    pub(super) fn make_opaque(&mut self, path: &[u8]) -> Result<(), Errno> {
        self.parent(path)?;
        let directory = self.open(or_root(path), OFlags::RDONLY | OFlags::DIRECTORY)?;
        fs::fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty())
    }

    /// What the last entry replaced.
    pub(super) fn take_superseded(&mut self) -> Option<Vec<u8>> {
        self.superseded.take()
    }

    /// Unit: bytes of names that are kept until the last entry. An archive can make any number of them for one directory.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    fn keep_time(&mut self, directory: Vec<u8>, mtime: Timespec) {
        let length = directory.len();
        self.timed += 1;
        if self.times.insert(directory, (self.timed, mtime)).is_none() {
            self.kept += length;
        }
    }

    /// Sets what had to wait for the last entry.
    pub(super) fn finish(self) -> Result<Unpacked, Errno> {
        // No time is known of these, and a layer is the same wherever it is unpacked.
        for path in &self.implied {
            self.set_time(path, EPOCH)?;
        }
        let mut times: Vec<_> = self.times.iter().collect();
        times.sort_unstable_by_key(|(_, (number, _))| *number);
        for (path, (_, mtime)) in times {
            self.set_time(path, *mtime)?;
        }
        let mut implied: Vec<_> = self.implied.into_iter().collect();
        implied.sort_unstable();
        Ok(Unpacked {
            written: self.written,
            implied,
        })
    }

    fn set_time(&self, directory: &[u8], mtime: Timespec) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match self.open(or_root(directory), flags) {
            Ok(directory) => fs::futimens(&directory, &times(mtime)),
            // A later entry took its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Runs `make`, once more after what is in the way has gone.
    fn replace<T>(
        &mut self,
        name: &Name,
        make: impl Fn(&Arc<OwnedFd>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let parent = self.parent(&name.parent)?;
        match make(&parent, &name.last) {
            Err(Errno::EXIST) => {
                self.clear(&parent, name)?;
                make(&parent, &name.last)
            }
            other => other,
        }
    }

    fn clear(&mut self, parent: &OwnedFd, name: &Name) -> Result<(), Errno> {
        // The kept parent may be what goes.
        self.parent = None;
        self.superseded = Some(name.path());
        match fs::unlinkat(parent, &name.last[..], AtFlags::empty()) {
            Err(Errno::ISDIR) => self.trash.take(parent, &name.last),
            other => other,
        }
    }

    fn parent(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>, Errno> {
        if let Some((known, parent)) = &self.parent
            && known == path
        {
            return Ok(Arc::clone(parent));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = match self.open(or_root(path), flags) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.imply(path)?,
            other => other?,
        };
        let parent = Arc::new(parent);
        self.parent = Some((path.to_vec(), Arc::clone(&parent)));
        Ok(parent)
    }

    /// Makes the directories that entries below them imply: root's, 0755.
    fn imply(&mut self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut above = self.open(b".", flags)?;
        let ends = (0..path.len()).filter(|at| path[*at] == b'/');
        let mut start = 0;
        for end in ends.chain([path.len()]) {
            let part = &path[start..end];
            start = end + 1;
            // From where we are: a walk from the root for each part would make deep paths expensive.
            let found = match directory_in(&above, part, OFlags::PATH) {
                // A link leads on from the root.
                Err(Errno::NOTDIR) => self.open(&path[..end], flags),
                other => other,
            };
            above = match found {
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    // What exists and is no directory: a file, or a link to nowhere in this layer.
                    if !self.make_directory(&above, part)? {
                        return Err(Errno::NOTDIR);
                    }
                    let made = directory_in(&above, part, OFlags::RDONLY)?;
                    fs::fchown(&made, Some(Uid::ROOT), Some(Gid::ROOT))?;
                    fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                    if self.implied.insert(path[..end].to_vec()) {
                        self.kept += end;
                    }
                    made
                }
                other => other?,
            };
        }
        Ok(above)
    }

    /// False if something else has the name. A whiteout gives way, but goes on hiding what is below.
    fn make_directory(&mut self, parent: &OwnedFd, last: &[u8]) -> Result<bool, Errno> {
        match fs::mkdirat(parent, last, Mode::RWXU) {
            Ok(()) => {
                self.count(BLOCK);
                return Ok(true);
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let found = fs::statat(parent, last, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => Ok(true),
            FileType::CharacterDevice if found.st_rdev == 0 => {
                fs::unlinkat(parent, last, AtFlags::empty())?;
                fs::mkdirat(parent, last, Mode::RWXU)?;
                self.written.bytes += BLOCK;
                mark_opaque(parent, last)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    fn count(&mut self, stored: u64) {
        self.written.bytes += stored.div_ceil(BLOCK) * BLOCK;
        self.written.inodes += 1;
    }

    /// Owner first: changing it clears setuid bits and capabilities.
    fn set(&self, file: &OwnedFd, attributes: &Attributes<'_>) -> Result<(), Errno> {
        let (uid, gid) = owner(attributes);
        fs::fchown(file, uid, gid)?;
        fs::fchmod(file, Mode::from_raw_mode(attributes.mode))?;
        for (name, value) in &attributes.xattrs {
            bearable(name, fs::fsetxattr(file, *name, value, XattrFlags::empty()))?;
        }
        Ok(())
    }

    /// For what cannot be opened without effects: links, devices, fifos.
    fn set_by_name(
        &self,
        parent: &OwnedFd,
        last: &[u8],
        attributes: &Attributes<'_>,
    ) -> Result<(), Errno> {
        let (uid, gid) = owner(attributes);
        fs::chownat(parent, last, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        for (name, value) in &attributes.xattrs {
            // No call sets attributes by descriptor and name before Linux 6.13 (setxattrat).
            let path = [
                format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).as_bytes(),
                last,
            ]
            .concat();
            bearable(
                name,
                fs::lsetxattr(&path[..], *name, value, XattrFlags::empty()),
            )?;
        }
        let times = times(attributes.mtime);
        fs::utimensat(parent, last, &times, AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn or_root(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

/// Opens a directory, and no link to one.
fn directory_in(parent: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

fn owner(attributes: &Attributes<'_>) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(attributes.uid)),
        Some(Gid::from_raw(attributes.gid)),
    )
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: mtime,
    }
}

/// User attributes are a nicety; a capability that is lost breaks the program.
fn bearable(name: &[u8], result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) if name.starts_with(b"user.") => Ok(()),
        other => other,
    }
}

fn same_entry(a: &OwnedFd, a_name: &[u8], b: &OwnedFd, b_name: &[u8]) -> bool {
    let stat = |at: &OwnedFd, name: &[u8]| {
        let found = fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((found.st_dev, found.st_ino))
    };
    stat(a, a_name).is_some_and(|entry| stat(b, b_name) == Some(entry))
}

fn is_directory(parent: &OwnedFd, last: &[u8]) -> Result<bool, Errno> {
    let found = fs::statat(parent, last, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

fn mark_opaque(parent: &OwnedFd, last: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = fs::openat(parent, last, flags, Mode::empty())?;
    fs::fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_that_comes_again_is_kept_once_and_its_last_time_counts() {
        let site = tempfile::tempdir().unwrap();
        let trash = Trash::open_for_test(site.path().join("trash"));
        let root = site.path().join("layer");
        fs::create_dir_all(root.join("d")).unwrap();
        std::os::unix::fs::symlink(".", root.join("link")).unwrap();
        let mut tree = Tree::new(fs::File::open(&root).unwrap().into(), &trash);
        let names: [&[u8]; 5] = [b"d", b"link/d", b"d", b"link/d", b"d"];
        for (name, tv_sec) in names.into_iter().zip(1..) {
            tree.keep_time(name.to_vec(), Timespec { tv_sec, tv_nsec: 0 });
        }
        assert_eq!(tree.kept(), "d".len() + "link/d".len());
        tree.finish().unwrap();
        let modified = fs::metadata(root.join("d")).unwrap().modified().unwrap();
        let since = modified.duration_since(std::time::SystemTime::UNIX_EPOCH);
        assert_eq!(since.unwrap().as_secs(), 5);
    }
}
