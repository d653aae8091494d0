//! What a child tells the shim before execve: one message a packet over a SOCK_SEQPACKET pair, of which the child's end is
//! close-on-exec.
//!
//! What a sibling has to tell, which is born where others may take its descriptors (pidfd_getfd(2)), is one message in a
//! pipe. A socket in their hands would bring descriptors of theirs to the shim, and name the shim to them: since Linux 6.5
//! SO_PEERPIDFD gives a pidfd of the process that has made a pair, whatever its PID namespace, and with that its
//! descriptors. A pipe carries bytes and knows nobody.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use corten_proto::shim::{Created, Failure, Prepared};
use corten_sys::{process, socket};
use prost::Message;
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fs::{OFlags, fcntl_setfl},
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
    pipe::{PipeFlags, pipe_with},
};

use crate::failure::{Doing, Result};

/// Longest message, bytes. The child cuts what an image could make longer.
const MAX_MESSAGE: usize = 128 << 10;
/// Longest message in a pipe, bytes: it is written at once and never waited for, whatever the pipe holds (PIPE_BUF, pipe(7)).
const MAX_WORDS: usize = 4096;
/// Most bytes of a pipe's message that the subject of a failure has.
const MAX_SUBJECT: usize = 2048;
/// Most bytes that each of its other words has.
const MAX_HINT: usize = 512;

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
    /// Nothing yet.
    Nothing,
    /// The end: execve has succeeded, or the child has died.
    End,
}

/// The shim's end. It is readable when there is something to [read](Self::read).
#[derive(Debug)]
pub(crate) struct Report {
    way: Way,
    descriptor: Option<OwnedFd>,
}

#[derive(Debug)]
enum Way {
    Socket(OwnedFd),
    /// The sibling's.
    Pipe(OwnedFd),
    Both {
        /// `None` once the child has closed its end.
        socket: Option<OwnedFd>,
        pipe: OwnedFd,
        /// An epoll(7) instance of both.
        both: OwnedFd,
    },
}

/// The child's end.
#[derive(Debug)]
pub(super) struct Teller {
    socket: RefCell<Option<OwnedFd>>,
    pipe: Option<OwnedFd>,
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
            way: Way::Socket(ours),
            descriptor: None,
        },
        theirs,
    ))
}

/// Ends for a child that becomes the init itself.
pub(super) fn of_init() -> Result<(Report, Teller)> {
    let (report, socket) = pair()?;
    let teller = Teller {
        socket: RefCell::new(Some(socket)),
        pipe: None,
    };
    Ok((report, teller))
}

/// Ends for a maker, which has a sibling become the container's init.
pub(super) fn of_maker() -> Result<(Report, Teller)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .doing("socketpair", "report")?;
    let (pipe, words) = pipe()?;
    let both = epoll::create(CreateFlags::CLOEXEC).doing("epoll", "report")?;
    for fd in [&ours, &pipe] {
        epoll::add(&both, fd, EventData::new_u64(0), EventFlags::IN).doing("epoll", "report")?;
    }
    let report = Report {
        way: Way::Both {
            socket: Some(ours),
            pipe,
            both,
        },
        descriptor: None,
    };
    let teller = Teller {
        socket: RefCell::new(Some(theirs)),
        pipe: Some(words),
    };
    Ok((report, teller))
}

/// Ends for an exec, which has nothing to tell but a failure.
pub(super) fn of_exec() -> Result<(Report, Teller)> {
    let (pipe, words) = pipe()?;
    let report = Report {
        way: Way::Pipe(pipe),
        descriptor: None,
    };
    let teller = Teller {
        socket: RefCell::new(None),
        pipe: Some(words),
    };
    Ok((report, teller))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).doing("make a pipe", "report")?;
    fcntl_setfl(&ours, OFlags::NONBLOCK).doing("set flags", "report")?;
    Ok((ours, theirs))
}

impl Report {
    /// The child's next word; its failure is ours.
    pub(crate) fn read(&mut self) -> Result<Told> {
        let (told, descriptor) = match &mut self.way {
            Way::Socket(socket) => receive(socket)?,
            Way::Pipe(pipe) => return read_words(pipe),
            Way::Both { socket, pipe, both } => {
                let received = match socket.as_ref() {
                    Some(socket) => receive(socket)?,
                    None => (Told::End, None),
                };
                if matches!(received.0, Told::End)
                    && let Some(socket) = socket.take()
                {
                    // Closing it is not enough: see `Poll::add`.
                    let _ = epoll::delete(both, socket);
                }
                match received.0 {
                    Told::Nothing | Told::End => return read_words(pipe),
                    _ => received,
                }
            }
        };
        self.descriptor = descriptor;
        Ok(told)
    }

    /// The master of the container's terminal, which comes with [`Told::Created`] where the plan asks for one.
    pub(crate) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    /// Lets the child exec.
    pub(crate) fn go_ahead(&self) -> Result<()> {
        let socket = match &self.way {
            Way::Socket(socket) => Some(socket),
            Way::Both { socket, .. } => socket.as_ref(),
            Way::Pipe(_) => None,
        };
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let socket = socket.ok_or_else(gone).doing("release", "init")?;
        send(socket, &[1], SendFlags::NOSIGNAL).doing("release", "init")?;
        Ok(())
    }
}

fn receive(socket: &OwnedFd) -> Result<(Told, Option<OwnedFd>)> {
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let length = match past_reset(|| Ok(recv(socket, &mut [0; 1][..], peek)?)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Ok((Told::Nothing, None));
        }
        received => received.doing("receive", "report")?.1,
    };
    if length == 0 {
        return Ok((Told::End, None));
    }
    let mut bytes = vec![0; length.min(MAX_MESSAGE)];
    let mut fds = Vec::new();
    past_reset(|| socket::receive(socket, &mut bytes, &mut fds)).doing("receive", "report")?;
    let told = match decode(&bytes)? {
        Packet {
            failure: Some(failure),
            ..
        } => return Err(failure),
        Packet {
            prepared: Some(prepared),
            ..
        } => Told::Prepared(prepared),
        Packet { created, .. } => Told::Created(created.unwrap_or_default()),
    };
    Ok((told, fds.pop()))
}

fn decode(bytes: &[u8]) -> Result<Packet> {
    Packet::decode(bytes)
        .map_err(io::Error::other)
        .doing("decode", "report")
}

/// Reads a pipe that others may have written to, and hold open: one message, a failure, and nothing else.
fn read_words(pipe: &OwnedFd) -> Result<Told> {
    let mut bytes = vec![0; MAX_WORDS];
    match rustix::io::read(pipe, &mut bytes) {
        Ok(0) => Ok(Told::End),
        Ok(length) => match decode(&bytes[..length])?.failure {
            Some(failure) => Err(failure),
            None => Ok(Told::End),
        },
        Err(Errno::AGAIN | Errno::INTR) => Ok(Told::Nothing),
        Err(errno) => Err(errno).doing("receive", "report"),
    }
}

impl Teller {
    /// Sends a message, with a descriptor on it, over the socket.
    pub(super) fn tell(&self, packet: &Packet, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let socket = self.socket.borrow();
        let socket = socket.as_ref().ok_or_else(gone).doing("send", "report")?;
        write(socket.as_fd(), packet, fd)
    }

    /// The last word.
    pub(super) fn fail(&self, failure: Failure) {
        let Some(pipe) = &self.pipe else {
            let packet = Packet {
                failure: Some(failure),
                ..Packet::default()
            };
            let _ = self.tell(&packet, None);
            return;
        };
        let packet = Packet {
            failure: Some(cut(failure)),
            ..Packet::default()
        };
        let _ = rustix::io::write(pipe, &packet.encode_to_vec());
    }

    /// Waits for [`Report::go_ahead`]. `false`: the shim has gone.
    pub(super) fn wait_for_release(&self) -> bool {
        let socket = self.socket.borrow();
        socket.as_ref().is_some_and(wait_for_release)
    }

    /// Closes what a sibling may not have.
    pub(super) fn leave_to_sibling(&self) {
        if self.pipe.is_some() {
            self.socket.replace(None);
        }
    }

    /// Closes all descriptors but these and the streams: see [`process::close_all_but`].
    pub(super) fn close_others(&self) -> io::Result<()> {
        let socket = self.socket.borrow();
        let kept: Vec<_> = socket.iter().chain(&self.pipe).map(AsFd::as_fd).collect();
        process::close_all_but(&kept)
    }
}

/// Failure cut to what fits into a pipe.
fn cut(mut failure: Failure) -> Failure {
    for (text, most) in [
        (&mut failure.operation, MAX_HINT),
        (&mut failure.subject, MAX_SUBJECT),
        (&mut failure.hint, MAX_HINT),
    ] {
        text.truncate(text.floor_char_boundary(most));
    }
    failure
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
        match &self.way {
            Way::Socket(fd) | Way::Pipe(fd) | Way::Both { both: fd, .. } => fd.as_fd(),
        }
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
