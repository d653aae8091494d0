//! What a child tells the shim before execve: one message a packet over a SOCK_SEQPACKET pair, of which the child's end is
//! close-on-exec.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use corten_proto::shim::{Created, Failure, Prepared};
use corten_sys::socket;
use prost::Message;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

use crate::failure::{Doing, Result};

/// Longest message, bytes. The child cuts what an image could make longer.
const MAX_MESSAGE: usize = 128 << 10;

/// A child's message: a failure, or the result of its preparation.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Packet {
    #[prost(message, optional, tag = "1")]
    pub(super) failure: Option<Failure>,
    #[prost(message, optional, tag = "2")]
    pub(super) created: Option<Created>,
    #[prost(message, optional, tag = "3")]
    pub(super) prepared: Option<Prepared>,
}

/// What a child has told.
#[derive(Debug)]
pub(crate) enum Told {
    /// The bundle is there but for the runtime's configuration.
    Prepared(Prepared),
    /// All is done but execve. `init_pid` is the reader's to fill in.
    Created(Created),
    /// The end of the socket: execve has succeeded, or the child has died.
    End,
}

/// The shim's end. It is readable when [`Self::read`] would not block.
#[derive(Debug)]
pub(crate) struct Report {
    socket: OwnedFd,
    descriptor: Option<OwnedFd>,
}

/// The shim's end and the child's.
pub(super) fn pair() -> Result<(Report, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .doing("socketpair", "report")?;
    Ok((
        Report {
            socket: ours,
            descriptor: None,
        },
        theirs,
    ))
}

impl Report {
    /// The child's next word; its failure is ours.
    pub(crate) fn read(&mut self) -> Result<Told> {
        let peek = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        let (_, length) = past_reset(|| Ok(recv(&self.socket, &mut [0; 1][..], peek)?))
            .doing("receive", "report")?;
        if length == 0 {
            return Ok(Told::End);
        }
        let mut bytes = vec![0; length.min(MAX_MESSAGE)];
        let mut fds = Vec::new();
        past_reset(|| socket::receive(&self.socket, &mut bytes, &mut fds))
            .doing("receive", "report")?;
        self.descriptor = fds.pop();
        let packet = Packet::decode(&*bytes)
            .map_err(io::Error::other)
            .doing("decode", "report")?;
        match packet {
            Packet {
                failure: Some(failure),
                ..
            } => Err(failure),
            Packet {
                prepared: Some(prepared),
                ..
            } => Ok(Told::Prepared(prepared)),
            Packet { created, .. } => Ok(Told::Created(created.unwrap_or_default())),
        }
    }

    /// The master of the container's terminal, which comes with [`Told::Created`] where the plan asks for one.
    pub(crate) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    /// Lets the child exec.
    pub(crate) fn go_ahead(&self) -> Result<()> {
        send(&self.socket, &[1], SendFlags::NOSIGNAL).doing("release", "init")?;
        Ok(())
    }
}

/// A child that dies with our word unread leaves a reset, once, before its own last word, and at any moment.
fn past_reset<T>(mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match receive() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => receive(),
        result => result,
    }
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends the child's message, with a descriptor on it.
pub(super) fn write(
    socket: BorrowedFd<'_>,
    packet: &Packet,
    fd: Option<BorrowedFd<'_>>,
) -> Result<()> {
    socket::send(socket, &packet.encode_to_vec(), fd).doing("send", "report")
}

/// Waits in the child for [`Report::go_ahead`]. `false`: the shim has gone.
pub(super) fn wait_for_release(socket: impl AsFd) -> bool {
    loop {
        match recv(&socket, &mut [0; 1][..], RecvFlags::empty()) {
            Ok((length, _)) => return length == 1,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use corten_proto::shim::FailureKind;

    use super::*;
    use crate::failure::failure;

    #[test]
    fn a_message_arrives_whole_with_its_descriptor() {
        let (mut ours, theirs) = pair().unwrap();
        let created = Created {
            warnings: vec!["w".repeat(5000)],
            ..Created::default()
        };
        let packet = Packet {
            created: Some(created.clone()),
            ..Packet::default()
        };
        write(theirs.as_fd(), &packet, Some(theirs.as_fd())).unwrap();
        assert!(matches!(ours.read().unwrap(), Told::Created(got) if got == created));
        assert!(ours.take_descriptor().is_some());
    }

    #[test]
    fn the_end_is_told() {
        let (mut ours, theirs) = pair().unwrap();
        drop(theirs);
        assert!(matches!(ours.read().unwrap(), Told::End));
    }

    #[test]
    fn a_child_that_does_not_listen_is_heard() {
        let (mut ours, theirs) = pair().unwrap();
        let created = Packet {
            created: Some(Created::default()),
            ..Packet::default()
        };
        write(theirs.as_fd(), &created, None).unwrap();
        ours.go_ahead().unwrap();
        drop(theirs);
        assert!(matches!(ours.read().unwrap(), Told::Created(_)));
        assert!(matches!(ours.read().unwrap(), Told::End));
    }

    #[test]
    fn a_failure_arrives_as_it_was() {
        let (mut ours, theirs) = pair().unwrap();
        let told = failure(
            FailureKind::FailureExec,
            "exec",
            "sh",
            &io::ErrorKind::NotFound.into(),
        );
        write(
            theirs.as_fd(),
            &Packet {
                failure: Some(told.clone()),
                ..Packet::default()
            },
            None,
        )
        .unwrap();
        assert_eq!(ours.read().unwrap_err(), told);
    }
}
