//! A terminal of the container's own devpts, as the standard streams of its init or of a further process.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use corten_proto::shim::Identity;
use corten_sys::{mount, process, root::Root, socket};
use rustix::{
    fs::{Mode, OFlags, Uid, fchown},
    process::ioctl_tiocsctty,
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
};

use crate::failure::{Doing, Result};

/// The variable by which a command on a terminal learns of its kind, unless the container has one of its own.
pub(super) const KIND: &[u8] = b"TERM=xterm";

/// Opens a pair, makes the one end the streams of this process and, of init, /dev/console of the container. Returns the
/// other end, the master.
pub(super) fn open(root: &Root, identity: &Identity, is_init: bool) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = root
        .open_at(Path::new("/dev/pts/ptmx"), flags, Mode::empty())
        .doing("open", "/dev/pts/ptmx")?;
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

/// Sends the master over a socket whose other end the daemon has.
pub(super) fn send(socket: &OwnedFd, master: &OwnedFd) -> Result<()> {
    socket::send(socket, &[1], Some(master.as_fd())).doing("send", "terminal")
}

/// Makes the terminal that is open as its streams the controlling one of this process, which leads its session. Its end
/// hangs the terminal up.
pub(super) fn take() -> Result<()> {
    ioctl_tiocsctty(rustix::stdio::stdin()).doing("take on", "terminal")
}
