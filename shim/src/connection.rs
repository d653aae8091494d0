//! One connection of the daemon: frames in, frames out, never waiting for the other side.
//!
//! A frame is read in calls that end where it ends. So the descriptors that come with its first byte are its own, whatever
//! follows it in the stream.

use std::{
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use corten_proto::shim::{Reply, Request};
use corten_sys::socket;
use prost::Message;

/// Rule: shim.proto, "Frame".
const MAX_FRAME: usize = 16 << 20;
const HEADER: usize = 4;
/// Most bytes that one call reads: what a length promises is not allocated before it comes.
const CHUNK: usize = 32 << 10;
/// No request needs more.
const MAX_FDS: usize = socket::MAX_FDS;
/// A daemon that leaves so many bytes of replies unread is not listened to until it reads.
const MAX_UNSENT: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    frame: Frame,
    unsent: Vec<u8>,
    /// What is waited for; [`Interest::READ`] when it is new.
    pub(crate) watched: Interest,
}

/// What a connection can be waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Interest {
    pub(crate) const READ: Self = Self {
        read: true,
        write: false,
    };
}

/// The part of a frame that has come.
#[derive(Debug, Default)]
struct Frame {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            frame: Frame::default(),
            unsent: Vec::new(),
            watched: Interest::READ,
        })
    }

    /// The next request, if it is there as a whole, and the descriptors that came with it, in their order.
    ///
    /// # Errors
    /// UnexpectedEof when the other side is gone. InvalidData when what comes is no frame; nothing that follows can be
    /// understood then.
    pub(crate) fn receive(&mut self) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
        loop {
            let have = self.frame.bytes.len();
            let missing = self.frame.size()?.saturating_sub(have);
            if missing == 0 {
                let frame = std::mem::take(&mut self.frame);
                let request = Request::decode(&frame.bytes[HEADER..])
                    .map_err(|error| invalid(error.to_string()))?;
                return Ok(Some((request, frame.fds)));
            }
            self.frame.bytes.resize(have + missing.min(CHUNK), 0);
            let into = &mut self.frame.bytes[have..];
            let received = socket::receive(&self.stream, into, &mut self.frame.fds);
            let length = received.as_ref().copied().unwrap_or_default();
            self.frame.bytes.truncate(have + length);
            match received {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if self.frame.fds.len() > MAX_FDS => {
                    return Err(invalid("more descriptors than any request has".into()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn send(&mut self, reply: &Reply) {
        let body = reply.encode_to_vec();
        let length = u32::try_from(body.len()).unwrap_or_default();
        self.unsent.extend_from_slice(&length.to_le_bytes());
        self.unsent.extend_from_slice(&body);
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// What should be waited for now.
    pub(crate) fn interest(&self) -> Interest {
        Interest {
            read: self.unsent.len() < MAX_UNSENT,
            write: self.has_unsent(),
        }
    }

    /// Writes what the other side takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.stream.write(&self.unsent[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
        Ok(())
    }
}

impl Frame {
    /// How long the whole of it is, as far as is known.
    fn size(&self) -> io::Result<usize> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else {
            return Ok(HEADER);
        };
        match usize::try_from(u32::from_le_bytes(*header)) {
            Ok(length) if length <= MAX_FRAME => Ok(HEADER + length),
            _ => Err(invalid(format!(
                "a frame of {} bytes",
                u32::from_le_bytes(*header)
            ))),
        }
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, mem::MaybeUninit};

    use corten_proto::shim::{Hello, request::Call};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    fn pair() -> (UnixStream, Connection) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        (theirs, Connection::new(ours).unwrap())
    }

    fn request(id: u64) -> Request {
        Request {
            id,
            call: Some(Call::Hello(Hello { version: 1 })),
        }
    }

    fn frame(request: &Request) -> Vec<u8> {
        let body = request.encode_to_vec();
        let length = u32::try_from(body.len()).unwrap();
        [&length.to_le_bytes()[..], &body].concat()
    }

    #[track_caller]
    fn check(connection: &mut Connection, want: u64, fds: usize) {
        let (request, with) = connection.receive().unwrap().unwrap();
        assert_eq!((request.id, with.len()), (want, fds));
    }

    #[test]
    fn a_frame_may_come_in_pieces() {
        let (mut daemon, mut connection) = pair();
        for byte in frame(&request(7)) {
            assert!(connection.receive().unwrap().is_none());
            daemon.write_all(&[byte]).unwrap();
        }
        check(&mut connection, 7, 0);
        drop(daemon);
        let end = connection.receive().unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn descriptors_belong_to_the_frame_that_they_came_with() {
        let (mut daemon, mut connection) = pair();
        daemon.write_all(&frame(&request(1))).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [connection.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let bytes = [frame(&request(2)), frame(&request(3))].concat();
        let none = SendFlags::empty();
        sendmsg(&daemon, &[IoSlice::new(&bytes)], &mut ancillary, none).unwrap();
        check(&mut connection, 1, 0);
        check(&mut connection, 2, 1);
        check(&mut connection, 3, 0);
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for bytes in [&u32::MAX.to_le_bytes()[..], &[1, 0, 0, 0, 0xff]] {
            let (mut daemon, mut connection) = pair();
            daemon.write_all(bytes).unwrap();
            assert!(connection.receive().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_length_alone_costs_no_memory() {
        let (mut daemon, mut connection) = pair();
        daemon.write_all(&(16u32 << 20).to_le_bytes()).unwrap();
        assert!(connection.receive().unwrap().is_none());
        assert!(connection.frame.bytes.capacity() <= 2 * CHUNK);
    }

    #[test]
    fn who_does_not_read_is_not_listened_to() {
        let (_daemon, mut connection) = pair();
        assert_eq!(connection.interest(), Interest::READ);
        let reply = Reply {
            id: 1,
            result: Some(corten_proto::shim::reply::Result::Failure(
                corten_proto::shim::Failure {
                    hint: "x".repeat(MAX_UNSENT),
                    ..Default::default()
                },
            )),
        };
        connection.send(&reply);
        connection.flush().unwrap();
        connection.send(&reply);
        let want = Interest {
            read: false,
            write: true,
        };
        assert_eq!(connection.interest(), want);
    }
}
