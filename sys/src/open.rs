//! openat2(2) with the retries that it asks for, and files that are known to be files before they are opened.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat},
    io::Errno,
    path::Arg,
};

/// Attempts at one path. Beside loops that do nothing but rename and mount, on both of two cores, one in a hundred fails.
const TRIES: u32 = 1000;

/// Opens `path` below `dir`, close-on-exec.
///
/// Rule (openat2(2), "EAGAIN"): where the walk is scoped, and a file is renamed or a file system mounted anywhere on the
/// machine while it goes through a `..`, the kernel cannot tell whether it has stayed inside, and the caller tries again.
///
/// # Errors
/// EAGAIN only after a thousand attempts.
pub fn openat2(
    dir: impl AsFd,
    path: impl Arg,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let (dir, flags) = (dir.as_fd(), flags | OFlags::CLOEXEC);
    path.into_with_c_str(|path| {
        for _ in 1..TRIES {
            match rustix::fs::openat2(dir, path, flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => thread::yield_now(),
                other => return other,
            }
        }
        rustix::fs::openat2(dir, path, flags, mode, resolve)
    })
}

/// Descriptors of this process as proc lists them, by which a place is opened for good.
///
/// A device acts when it is opened, be it for a moment: a watchdog starts, a tape is rewound. So a file of an image or of
/// another owner is opened as a place, looked at, and then opened by its descriptor, which can lead to nothing else meanwhile.
#[derive(Debug)]
pub struct Descriptors(OwnedFd);

impl Descriptors {
    /// Descriptors of the calling process, also when it has left the mount namespace with this /proc.
    pub fn of_self() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, "/proc/self/fd", flags, Mode::empty())?))
    }

    /// Opens what `place` is open on with `flags`, if it is a regular file.
    pub fn open_file(
        &self,
        place: BorrowedFd<'_>,
        flags: OFlags,
    ) -> Result<Option<OwnedFd>, Errno> {
        if FileType::from_raw_mode(fstat(place)?.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        // No holder of a lease is waited for (fcntl(2), F_SETLEASE).
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let name = place.as_raw_fd().to_string();
        openat(&self.0, name, flags, Mode::empty()).map(Some)
    }
}

/// Opens the regular file `path` of the host for reading.
///
/// # Errors
/// What else is there is not opened.
pub fn regular_file(path: &Path) -> io::Result<File> {
    let place = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    match Descriptors::of_self()?.open_file(place.as_fd(), OFlags::RDONLY)? {
        Some(file) => Ok(file.into()),
        None => Err(io::Error::other("not a regular file")),
    }
}
