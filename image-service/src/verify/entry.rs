//! What one entry of an archive must have left on disk.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;

use corten_sys::open::openat2;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, lgetxattr, major, minor,
    readlinkat, statat,
};
use rustix::io::Errno;

use crate::unpack::{Change, Kind, Member, Name, OPAQUE, change_of, is_kept};

const MAX_XATTR: usize = 64 << 10;

/// What came of looking.
pub(super) enum Look {
    /// It leaves nothing.
    Ignored,
    /// At this path, free of symbolic links.
    Entry {
        path: Vec<u8>,
        differs: Option<String>,
    },
    /// A mark on a directory.
    Mark {
        path: Vec<u8>,
        differs: Option<String>,
    },
}

/// The layer's directories, as entries name them.
pub(super) struct Places<'a> {
    root: &'a OwnedFd,
    /// As `/proc/self/fd` tells it.
    root_path: Vec<u8>,
    last: Option<(Vec<u8>, Arc<OwnedFd>)>,
    /// Without symbolic links, by the name that entries use, and all above it.
    canonical: HashMap<Vec<u8>, Vec<u8>>,
    parents: HashSet<Vec<u8>>,
    /// Deeper than the kernel tells paths.
    has_abyss: bool,
}

type Verdict = Result<(), String>;

impl<'a> Places<'a> {
    pub(super) fn new(root: &'a OwnedFd) -> Self {
        Self {
            root,
            root_path: path_of(root).unwrap_or_default(),
            last: None,
            canonical: HashMap::new(),
            parents: HashSet::new(),
            has_abyss: false,
        }
    }

    /// `size` is of the member's data, in bytes.
    pub(super) fn compare(&mut self, member: &Member, size: u64) -> Look {
        let (name, verdict) = match change_of(member) {
            // The layer would not be here.
            Err(_) | Ok(Change::Nothing) => return Look::Ignored,
            Ok(Change::Opaque(path)) => {
                let differs = self.opaque(&path).err();
                return Look::Mark { path, differs };
            }
            Ok(Change::Whiteout(name)) => {
                let verdict = self.whiteout(&name);
                (name, verdict)
            }
            Ok(Change::Entry(name)) => {
                let verdict = self.entry(&name, member, size);
                (name, verdict)
            }
        };
        Look::Entry {
            path: self.canonical(&name.path()),
            differs: verdict.err(),
        }
    }

    /// The path without symbolic links in its directories.
    pub(super) fn canonical(&self, path: &[u8]) -> Vec<u8> {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else {
            return path.to_vec();
        };
        match self.canonical.get(&path[..slash]) {
            Some(parent) if parent.is_empty() => path[slash + 1..].to_vec(),
            Some(parent) => [parent, &path[slash..]].concat(),
            None => path.to_vec(),
        }
    }

    /// Whether an entry lies below this directory.
    pub(super) fn is_parent(&self, path: &[u8]) -> bool {
        self.parents.contains(path)
    }

    /// Whether a walk can tell what is in no entry.
    pub(super) fn are_all_known(&self) -> bool {
        !self.has_abyss
    }

    fn parent(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>, String> {
        if let Some((known, parent)) = &self.last
            && known == path
        {
            return Ok(Arc::clone(parent));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = self
            .open(path, flags)
            .map_err(|_| "its directory is missing")?;
        let parent = Arc::new(parent);
        if !self.canonical.contains_key(path) {
            let relative = self.relative(&parent);
            self.has_abyss |= relative.is_none();
            let canonical = relative.unwrap_or_else(|| path.to_vec());
            let ends = (0..canonical.len()).filter(|at| canonical[*at] == b'/');
            for end in ends.chain([canonical.len()]) {
                self.parents.insert(canonical[..end].to_vec());
            }
            self.canonical.insert(path.to_vec(), canonical);
        }
        self.last = Some((path.to_vec(), Arc::clone(&parent)));
        Ok(parent)
    }

    fn relative(&self, directory: &OwnedFd) -> Option<Vec<u8>> {
        let path = path_of(directory).ok()?;
        let below = path.strip_prefix(&self.root_path[..])?;
        Some(below.strip_prefix(b"/").unwrap_or(below).to_vec())
    }

    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        openat2(self.root, path, flags, Mode::empty(), resolve)
    }

    fn whiteout(&mut self, name: &Name) -> Verdict {
        if self.is_no_directory(&name.parent) {
            return Ok(());
        }
        let (_, found) = self.stat(name)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::CharacterDevice if found.st_rdev == 0 => Ok(()),
            // What the layer itself has there hides what is below.
            FileType::Directory => self.opaque(&name.path()),
            _ => Ok(()),
        }
    }

    /// Whether something else is there, or a link that leads to none.
    fn is_no_directory(&self, path: &[u8]) -> bool {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let found = openat2(self.root, path, OFlags::PATH, Mode::empty(), resolve);
                found.is_err_and(|errno| errno == Errno::LOOP)
            }
            other => other.is_err_and(|errno| matches!(errno, Errno::NOTDIR | Errno::LOOP)),
        }
    }

    fn opaque(&mut self, path: &[u8]) -> Verdict {
        // The mark is an entry below it.
        self.parent(path)?;
        let directory = self
            .open(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|_| "it is missing")?;
        let mut value = [0; 2];
        match rustix::fs::fgetxattr(&directory, OPAQUE, &mut value[..]) {
            Ok(1) if value[0] == b'y' => Ok(()),
            _ => Err("it is not opaque".to_owned()),
        }
    }

    fn entry(&mut self, name: &Name, member: &Member, size: u64) -> Verdict {
        let (parent, found) = self.stat(name)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let want = match &member.kind {
            Kind::File { .. } => FileType::RegularFile,
            Kind::Directory => FileType::Directory,
            Kind::Symlink { .. } => FileType::Symlink,
            Kind::Fifo => FileType::Fifo,
            Kind::Character { .. } => FileType::CharacterDevice,
            Kind::Block { .. } => FileType::BlockDevice,
            Kind::Hardlink { target } => return self.hardlink(target, &found),
        };
        if kind != want {
            return Err(format!("it is a {kind:?}, not a {want:?}"));
        }
        match &member.kind {
            Kind::Symlink { target } => {
                let got = readlinkat(&parent, &name.last[..], Vec::new());
                if got.map_or(true, |got| got.to_bytes() != target) {
                    return Err("it points elsewhere".to_owned());
                }
            }
            Kind::Character { major, minor } | Kind::Block { major, minor } => {
                same("device", device(&found), (*major, *minor))?;
            }
            Kind::File { sparse } => {
                let want = sparse.as_ref().map_or(size, |map| map.real_size);
                same("size", u64::try_from(found.st_size).unwrap_or(0), want)?;
            }
            _ => {}
        }
        attributes(member, kind, &found)?;
        for (xattr, value) in &member.xattrs {
            if is_kept(xattr) {
                let last = if name.is_root() { b"." } else { &name.last[..] };
                same_xattr(&parent, last, xattr, value)?;
            }
        }
        Ok(())
    }

    fn hardlink(&mut self, target: &[u8], found: &Stat) -> Verdict {
        let Ok(target) = Name::parse(target) else {
            return Ok(());
        };
        let (_, target) = self.stat(&target)?;
        let id = |stat: &Stat| (stat.st_dev, stat.st_ino);
        match id(found) == id(&target) {
            true => Ok(()),
            false => Err("it is no hard link to what it should be".to_owned()),
        }
    }

    fn stat(&mut self, name: &Name) -> Result<(Arc<OwnedFd>, Stat), String> {
        let parent = self.parent(&name.parent)?;
        let found = match name.is_root() {
            true => fstat(&parent),
            false => statat(&parent, &name.last[..], AtFlags::SYMLINK_NOFOLLOW),
        };
        let found = found.map_err(|errno| match errno {
            Errno::NOENT => "it is missing".to_owned(),
            errno => format!("it cannot be looked at: {errno}"),
        })?;
        Ok((parent, found))
    }
}

fn attributes(member: &Member, kind: FileType, found: &Stat) -> Verdict {
    same(
        "owner",
        (found.st_uid, found.st_gid),
        (member.uid, member.gid),
    )?;
    if kind != FileType::Symlink {
        let got = format!("{:o}", found.st_mode & 0o7777);
        same("mode", got, format!("{:o}", member.mode))?;
    }
    let want = member.mtime.tv_sec;
    // File systems clamp what they cannot say.
    if (0..=i64::from(i32::MAX)).contains(&want) {
        same("time", found.st_mtime, want)?;
    }
    Ok(())
}

fn same_xattr(parent: &Arc<OwnedFd>, last: &[u8], name: &[u8], want: &[u8]) -> Verdict {
    let directory = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd());
    let path = [directory.as_bytes(), last].concat();
    let mut value = vec![0; MAX_XATTR];
    let is_same = match lgetxattr(&path[..], name, &mut value[..]) {
        Ok(length) => value[..length] == *want,
        // As when it was set.
        Err(Errno::OPNOTSUPP | Errno::NODATA) => name.starts_with(b"user."),
        Err(_) => false,
    };
    let name = String::from_utf8_lossy(name);
    match is_same {
        true => Ok(()),
        false => Err(format!("its attribute {name} is not as it was")),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Verdict {
    match got == want {
        true => Ok(()),
        false => Err(format!("its {what} is {got:?}, not {want:?}")),
    }
}

fn device(found: &Stat) -> (u32, u32) {
    (major(found.st_rdev), minor(found.st_rdev))
}

fn path_of(directory: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok(rustix::fs::readlink(link, Vec::new())?.into_bytes())
}
