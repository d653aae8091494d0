//! A command's terminal: its master, which comes from within the container.

use std::{
    io,
    os::fd::{AsFd, IntoRawFd, OwnedFd},
};

use corten_sys::{socket, terminal};
use rustix::{io::ioctl_fionbio, termios::tcsetwinsize};
use tokio::{
    io::Interest,
    net::{UnixStream, unix::pipe},
    task::JoinSet,
};

use super::{
    copy::{carry, feed},
    remote_command::{Ends, Sizes},
};
use crate::shim::{End, Printed};

/// Connects the client with the terminal whose master comes over `socket`, until the command has ended. Where none comes,
/// the command's failure tells why.
pub(super) async fn connect(socket: UnixStream, ends: Ends, end: End) {
    let result = async {
        let master = receive_master(&socket).await?;
        let master = master.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut tasks = JoinSet::new();
        if let Some(input) = ends.stdin {
            tasks.spawn(feed(input, writer(master.try_clone()?)?, end.clone()));
        }
        ioctl_fionbio(&master, true)?;
        let reader = pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
        if let Some(sizes) = ends.sizes {
            tasks.spawn(resize(master, sizes));
        }
        // What is printed has to be read, wanted or not. The rest ends with it.
        carry(Printed::by_terminal(reader, end), ends.stdout).await;
        io::Result::Ok(())
    };
    if let Err(error) = result.await {
        tracing::debug!(%error, "a client has no terminal");
    }
}

/// The descriptor that comes with a byte, if there is one.
pub(super) async fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut fds = Vec::new();
    let receive = || socket::receive(socket, &mut [0], &mut fds);
    socket.async_io(Interest::READABLE, receive).await?;
    Ok(fds.pop())
}

/// A terminal's master. The shim has seen that it is one, unless it is of a version that did not look; of anything else that
/// a container has made the runtime's threads could wait for ever.
pub(super) async fn receive_master(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    receive(socket).await?.map(checked).transpose()
}

/// The master, if it is one. Anything else is left open until this process ends: closing it asks its file system.
fn checked(master: OwnedFd) -> io::Result<OwnedFd> {
    if terminal::is_master(master.as_fd())? {
        return Ok(master);
    }
    let number = master.into_raw_fd();
    tracing::warn!(
        descriptor = number,
        "what came for a terminal is none: it is neither used nor closed"
    );
    Err(io::Error::other("it is not a terminal's master"))
}

/// Of a pipe, or of a terminal's master, which is written to in the same way.
pub(super) fn writer(fd: OwnedFd) -> io::Result<pipe::Sender> {
    ioctl_fionbio(&fd, true)?;
    pipe::Sender::from_owned_fd_unchecked(fd)
}

/// Gives the terminal the sizes that the client sends.
pub(super) async fn resize(master: OwnedFd, mut sizes: Sizes) {
    while let Some(size) = sizes.next().await {
        if let Err(error) = tcsetwinsize(&master, size) {
            tracing::debug!(%error, "a terminal keeps its size");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsRawFd, path::Path};

    use rustix::pty::{OpenptFlags, openpt};

    use super::*;

    #[test]
    fn what_is_no_master_is_neither_used_nor_closed() {
        let file = OwnedFd::from(File::open("/proc/self/status").unwrap());
        let number = file.as_raw_fd();
        assert!(checked(file).is_err());
        let left = std::fs::read_link(Path::new("/proc/self/fd").join(number.to_string()));
        assert!(left.unwrap().ends_with("status"));
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        assert!(checked(master).is_ok());
    }
}
