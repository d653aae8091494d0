//! A terminal of the container's own devpts, as the standard streams of its init or of a further process.

use std::{
    os::fd::{AsFd, IntoRawFd, OwnedFd},
    path::Path,
};

use corten_proto::shim::Identity;
use corten_sys::{mount, process, root::Root, socket, terminal};
use rustix::{
    fs::{FsWord, Mode, OFlags, ResolveFlags, Uid, fchown, fstatfs, openat2},
    process::ioctl_tiocsctty,
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
};

use crate::failure::{Doing, Result, invalid};

const PTS: &str = "/dev/pts";
/// linux/magic.h, DEVPTS_SUPER_MAGIC.
const DEVPTS: FsWord = 0x1cd1;

/// The variable by which a command on a terminal learns of its kind, unless the container has one of its own.
pub(super) const KIND: &[u8] = b"TERM=xterm";

/// Opens a pair, makes the one end the streams of this process and, of init, /dev/console of the container. Returns the
/// other end, the master.
pub(super) fn open(root: &Root, identity: &Identity, is_init: bool) -> Result<OwnedFd> {
    let master = open_master(root)?;
    unlockpt(&master).doing("unlock", "terminal")?;
    let peer = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)
        .doing("open", "terminal")?;
    fchown(&peer, Some(Uid::from_raw(identity.uid)), None).doing("chown", "terminal")?;
    if is_init {
        let console = root
            .make_file(Path::new("/dev/console"), Mode::from_raw_mode(0o620))
            .doing("make", "/dev/console")?;
        let tree = mount::clone_tree_at(peer.as_fd(), false).doing("open_tree", "terminal")?;
        mount::attach(tree.as_fd(), console.as_fd()).doing("attach", "/dev/console")?;
    }
    (0..3)
        .try_for_each(|number| process::dup_to(peer.as_fd(), number))
        .doing("dup2", "terminal")?;
    Ok(master)
}

/// Opens a new master of the devpts at its place. A container can put anything there, such as a file of a server of its own,
/// of which not even an open or a close need ever end; in a devpts itself is nothing but the kernel's.
fn open_master(root: &Root) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let pts = root
        .open_at(Path::new(PTS), flags, Mode::empty())
        .doing("open", PTS)?;
    if fstatfs(&pts).doing("statfs", PTS)?.f_type != DEVPTS {
        let hint = "it is not a devpts, so that there are no terminals in this container";
        return Err(invalid("open", PTS, hint));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Nothing that is mounted in it.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let master =
        openat2(&pts, "ptmx", flags, Mode::empty(), resolve).doing("open", "/dev/pts/ptmx")?;
    checked(master)
}

/// The master, if it is one. Anything else is left open: closing it could take for ever.
pub(super) fn checked(master: OwnedFd) -> Result<OwnedFd> {
    let what = "the terminal";
    if terminal::is_master(master.as_fd()).doing("stat", what)? {
        return Ok(master);
    }
    let _ = master.into_raw_fd();
    Err(invalid("open", what, "it is not a terminal's master"))
}

/// Sends the master over a socket whose other end the daemon has.
pub(super) fn send(socket: &OwnedFd, master: &OwnedFd) -> Result<()> {
    socket::send(socket, &[1], Some(master.as_fd())).doing("send", "terminal")
}

/// Makes the terminal that is open as its streams the controlling one of this process, which leads its session. Its end
/// hangs the terminal up.
pub(super) fn take() -> Result<()> {
    ioctl_tiocsctty(rustix::stdio::stdin()).doing("take on", "terminal")
}
