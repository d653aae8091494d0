//! What a directory with all below it takes on disk. The container changes it meanwhile, and may mean ill: the kernel
//! resolves every path below one descriptor, no link leads out, and no depth is too deep.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use corten_sys::root::Root;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, statat},
    io::Errno,
};

const BLOCK: u64 = 512;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct DiskUsage {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// Counts `top` and what is below it; a file with many names once.
pub(super) fn measure(top: &Path) -> io::Result<DiskUsage> {
    let root = Root::open(top)?;
    let own = rustix::fs::fstat(&root)?;
    let mut usage = DiskUsage::default();
    usage.add(&own);
    let mut linked = HashSet::new();
    let mut places = vec![Arc::new(Place::default())];
    while let Some(place) = places.pop() {
        let mut directory = match open(&root, &place.path()) {
            Ok(directory) => Dir::new(directory)?,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        while let Some(entry) = directory.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let found = match statat(directory.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => found,
                Err(errno) if is_gone(&errno.into()) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
            if is_directory {
                places.push(Arc::new(Place {
                    parent: Some(Arc::clone(&place)),
                    name: OsStr::from_bytes(name.to_bytes()).to_owned(),
                }));
            } else if found.st_nlink > 1 && !linked.insert(found.st_ino) {
                continue;
            }
            usage.add(&found);
        }
    }
    Ok(usage)
}

/// A directory that is still to be read. It holds one name: the paths of a million directories, each of them kilobytes
/// long, would take gigabytes.
#[derive(Default)]
struct Place {
    parent: Option<Arc<Place>>,
    name: OsString,
}

impl Place {
    fn path(&self) -> PathBuf {
        let mut names = Vec::new();
        let mut place = Some(self);
        while let Some(here) = place {
            names.push(here.name.as_os_str());
            place = here.parent.as_deref();
        }
        names.into_iter().rev().collect()
    }
}

impl Drop for Place {
    /// In a loop: as deep as the tree, a recursion would outgrow the stack.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut last) = parent.and_then(Arc::into_inner) {
            parent = last.parent.take();
        }
    }
}

impl DiskUsage {
    fn add(&mut self, found: &rustix::fs::Stat) {
        self.inodes += 1;
        self.bytes += u64::try_from(found.st_blocks).unwrap_or_default() * BLOCK;
    }
}

/// Opens a directory below the root, in steps where the path is longer than the kernel takes (PATH_MAX).
fn open(root: &Root, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match root.open_at(path, flags, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
            let count = path.components().count();
            let first: PathBuf = path.components().take(count / 2).collect();
            let rest: PathBuf = path.components().skip(count / 2).collect();
            open(&Root::from_fd(open(root, &first)?), &rest)
        }
        opened => opened,
    }
}

/// Removed, or made something else, since its name was read.
fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    gone.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn inodes(top: &Path) -> u64 {
        measure(top).unwrap().inodes
    }

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        assert_eq!(inodes(top.path()), 1);
        let before = measure(top.path()).unwrap().bytes;
        fs::write(path("file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(path("file"), path("other-name")).unwrap();
        symlink("/usr", path("out")).unwrap();
        fs::create_dir(path("dir")).unwrap();
        symlink("..", path("dir/up")).unwrap();
        assert_eq!(inodes(top.path()), 5);
        let grown = measure(top.path()).unwrap().bytes - before;
        assert!(
            (1 << 20..(1 << 20) + (64 << 10)).contains(&grown),
            "{grown}"
        );
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_is_counted_to_its_end() {
        const DEPTH: u64 = 100;
        let top = tempfile::tempdir().unwrap();
        let name = "d".repeat(200);
        // 20 kB in all, so that it is made from the end.
        for _ in 0..DEPTH {
            let (last, next) = (top.path().join("last"), top.path().join("next"));
            fs::create_dir(&next).unwrap();
            if last.exists() {
                fs::rename(&last, next.join(&name)).unwrap();
            }
            fs::rename(&next, &last).unwrap();
        }
        assert_eq!(inodes(top.path()), DEPTH + 1);
    }
}
