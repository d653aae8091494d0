//! The file of a log: regular, appended to, and made of whole lines even when there is no room for all of them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use corten_sys::open::Descriptors;
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};

#[derive(Debug)]
pub(super) struct LogFile(File);

impl LogFile {
    /// Opens it, made with mode 0640 where it is missing. The directory may belong to somebody else: no symlink is followed, and
    /// no device opened.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(file) = existing(path)? {
            return Ok(Self(file));
        }
        let mut options = OpenOptions::new();
        let options = options.append(true).create_new(true).mode(0o640);
        match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                existing(path)?.ok_or(error).map(Self)
            }
            made => made.map(Self),
        }
    }

    /// Appends `lines`, in one call where the kernel takes them so.
    ///
    /// # Errors
    /// How many of the last lines are not in the file, and why.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < lines.len() {
            match self.0.write(&lines[written..]) {
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let whole = lines[..written]
                        .iter()
                        .rposition(|byte| *byte == b'\n')
                        .map_or(0, |newline| newline + 1);
                    // A full disk takes a line in part; the next one must not be glued to it.
                    let _ = self.cut(written - whole);
                    let lost = lines[whole..].iter().filter(|byte| **byte == b'\n').count();
                    return Err((lost, error));
                }
            }
        }
        Ok(())
    }

    /// Takes back the last bytes that were written.
    fn cut(&mut self, bytes: usize) -> io::Result<()> {
        let end = self.0.stream_position()?;
        self.0
            .set_len(end.saturating_sub(u64::try_from(bytes).unwrap_or(0)))
    }
}

fn existing(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        place => place?,
    };
    let flags = OFlags::WRONLY | OFlags::APPEND;
    match Descriptors::of_self()?.open_file(place.as_fd(), flags)? {
        Some(file) => Ok(Some(file.into())),
        None => Err(io::Error::other("it is not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::PathBuf};

    use super::*;

    /// Removed when dropped.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let name = format!("corten-log-{name}-{}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_a_regular_file_is_opened() {
        let dir = Dir::new("open");
        let path = |name: &str| dir.0.join(name);
        symlink(path("target"), path("link")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["link", "fifo", "", "missing/0.log"] {
            assert!(LogFile::open(&path(name)).is_err(), "{name}");
        }
        assert!(!path("target").exists());
        LogFile::open(&path("0.log")).unwrap();
    }

    #[test]
    fn a_device_is_not_opened_to_see_what_it_is() {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let dir = Dir::new("device");
        // No driver has it: its open would fail in words of the kernel's.
        let known = fs::read_to_string("/proc/devices").unwrap();
        let unused = (300..511).find(|major| !known.contains(&format!("\n{major} ")));
        let (device, number) = (dir.0.join("0.log"), makedev(unused.unwrap(), 0));
        mknod(&device, SFlag::S_IFCHR, Mode::S_IRWXU, number).unwrap();
        let refused = LogFile::open(&device).unwrap_err();
        assert_eq!(refused.to_string(), "it is not a regular file");
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_line() {
        let dir = Dir::new("full");
        let path = dir.0.join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        log.write(b"first\n").unwrap();
        let mut filled = File::options().append(true).open(&path).unwrap();
        filled.write_all(b"second\nthi").unwrap();
        // As after a write of which the kernel took this much.
        log.0.seek(io::SeekFrom::End(0)).unwrap();
        log.cut(3).unwrap();
        log.write(b"fourth\n").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "first\nsecond\nfourth\n");
    }

    #[test]
    fn lost_lines_are_counted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (lost, error) = LogFile(full).write(b"a\nb\nc\n").unwrap_err();
        assert_eq!((lost, error.kind()), (3, io::ErrorKind::StorageFull));
    }
}
