//! Terminals that come from a container.

use std::{io, os::fd::BorrowedFd};

use rustix::fs::{AtFlags, FileType, StatxFlags, statx};

/// Device number of /dev/ptmx and of each ptmx in a devpts (Documentation/admin-guide/devices.txt).
const PTMX: (u32, u32) = (5, 2);

/// Whether a descriptor is a terminal's master, which the kernel itself answers for.
///
/// Asks no file system: it may be a server's in the container (fuse(4)), which never answers. Then nobody may read, poll or
/// close the descriptor; what has a device's number is the device's, whichever file system its node is on.
pub fn is_master(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(fd, "", flags, StatxFlags::TYPE)?;
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    let number = (stat.stx_rdev_major, stat.stx_rdev_minor);
    Ok(kind == FileType::CharacterDevice && number == PTMX)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use rustix::pty::{OpenptFlags, openpt};

    use super::*;

    #[test]
    fn a_master_is_told_from_everything_else() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        assert!(is_master(master.as_fd()).unwrap());
        let peer = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::NOCTTY);
        assert!(peer.is_err() || !is_master(peer.unwrap().as_fd()).unwrap());
        for path in ["/dev/null", "/proc/self/exe", "/"] {
            assert!(
                !is_master(File::open(path).unwrap().as_fd()).unwrap(),
                "{path}"
            );
        }
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(!is_master(reader.as_fd()).unwrap());
    }
}
