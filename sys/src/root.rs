//! Paths below a container's root: resolved by the kernel so that no symlink and no `..` leads out (openat2(2),
//! RESOLVE_IN_ROOT).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat};

use crate::{
    making::{self, End},
    open::openat2,
};

/// An open root directory.
#[derive(Debug)]
pub struct Root(OwnedFd);

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Mode of directories that a file is made in.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

impl Root {
    /// Opens the directory `path` of the host.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(
            CWD,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?))
    }

    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens `path` below the root. It may be absolute, which means the same.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        Ok(openat2(&self.0, path_or_dot(path), flags, mode, IN_ROOT)?)
    }

    /// Opens the directory `path` as a place, if no symlink is on the way.
    pub fn open_without_links(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(openat2(
            &self.0,
            path_or_dot(path),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            IN_ROOT | ResolveFlags::NO_SYMLINKS,
        )?)
    }

    /// Opens `path` as a place, without reading it.
    pub fn locate(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_at(path, OFlags::PATH, Mode::empty())
    }

    /// Opens the directory `path` as a place, and makes what is missing of it, where dangling symlinks lead, too.
    pub fn make_dir_all(&self, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
        let dir = self.locate_or_make(path, mode, End::Directory)?;
        if FileType::from_raw_mode(fstat(&dir)?.st_mode) == FileType::Directory {
            Ok(dir)
        } else {
            Err(io::Error::from_raw_os_error(libc::ENOTDIR))
        }
    }

    /// Opens the file `path` as a place, and makes an empty one with its directories where it is missing, where dangling
    /// symlinks lead, too. A directory that is there is opened in its place.
    pub fn make_file(&self, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
        self.locate_or_make(path, DIRECTORY, End::File(mode))
    }

    fn locate_or_make(&self, path: &Path, mode: Mode, end: End) -> io::Result<OwnedFd> {
        match self.locate(path) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                making::make(self.as_fd(), path, mode, end)
            }
            found => found,
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// openat2 refuses an empty path; "/" is the root itself.
fn path_or_dot(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn root() -> (std::path::PathBuf, Root) {
        let id = format!(
            "corten-root-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let dir = std::env::temp_dir().join(id);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("root")).unwrap();
        fs::create_dir_all(dir.join("outside")).unwrap();
        let root = Root::open(&dir.join("root")).unwrap();
        (dir, root)
    }

    #[test]
    fn a_symlink_leads_nowhere_else() {
        let (dir, root) = root();
        symlink("/outside", dir.join("root/out")).unwrap();
        symlink("../../outside", dir.join("root/up")).unwrap();
        for path in ["/out/made", "/up/made", "../../outside/made"] {
            root.make_dir_all(Path::new(path), Mode::from_raw_mode(0o755))
                .unwrap();
        }
        assert_eq!(fs::read_dir(dir.join("outside")).unwrap().count(), 0);
        assert!(dir.join("root/outside/made").is_dir());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_loop_of_symlinks_ends() {
        let (dir, root) = root();
        symlink("b", dir.join("root/a")).unwrap();
        symlink("a", dir.join("root/b")).unwrap();
        assert!(
            root.make_dir_all(Path::new("/a/x"), Mode::from_raw_mode(0o755))
                .is_err()
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_is_made_with_its_directories() {
        let (dir, root) = root();
        root.make_file(Path::new("/x/y/file"), Mode::from_raw_mode(0o644))
            .unwrap();
        assert!(dir.join("root/x/y/file").is_file());
        fs::remove_dir_all(dir).unwrap();
    }
}
