//! All names below a directory that a path can reach, without following anything.

use std::io;
use std::os::fd::OwnedFd;

use corten_sys::open::openat2;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, statat};
use rustix::io::Errno;

/// `PATH_MAX`, include/uapi/linux/limits.h.
const MAX_PATH: usize = 4096;

/// Calls `each` with the path, and whether it is a directory, until it says false.
pub(super) fn each(root: &OwnedFd, mut each: impl FnMut(&[u8], bool) -> bool) -> io::Result<()> {
    let mut directories = vec![Vec::new()];
    while let Some(above) = directories.pop() {
        let directory = open(root, &above)?;
        let mut entries = Dir::read_from(&directory)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let is_directory = match entry.file_type() {
                FileType::Unknown => is_directory(&directory, name)?,
                known => known == FileType::Directory,
            };
            let path = match above.is_empty() {
                true => name.to_vec(),
                false => [&above, &b"/"[..], name].concat(),
            };
            if !each(&path, is_directory) {
                return Ok(());
            }
            if is_directory && path.len() < MAX_PATH {
                directories.push(path);
            }
        }
    }
    Ok(())
}

fn is_directory(parent: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

fn open(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    openat2(root, path, flags, Mode::empty(), resolve)
}
