//! One connection of the daemon: frames in, frames out, never waiting for the other side.

use std::{
    collections::VecDeque,
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
/// Descriptors that came and that no request has taken yet.
const MAX_FDS: usize = 16;
const CHUNK: usize = 16 << 10;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    unsent: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            received: Vec::new(),
            fds: VecDeque::new(),
            unsent: Vec::new(),
        })
    }

    /// Reads what there is. False at the end of the stream.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        loop {
            let mut fds = Vec::new();
            let length = match socket::receive(&self.stream, &mut chunk, &mut fds) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            self.fds.extend(fds);
            if self.fds.len() > MAX_FDS {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "descriptors that no request asks for",
                ));
            }
            if length == 0 {
                return Ok(false);
            }
            self.received.extend_from_slice(&chunk[..length]);
        }
    }

    /// The next request that is there as a whole.
    pub(crate) fn next(&mut self) -> io::Result<Option<Request>> {
        let Some(header) = self.received.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {length} bytes"),
            ));
        }
        let Some(body) = self.received.get(HEADER..HEADER + length) else {
            return Ok(None);
        };
        let request = Request::decode(body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.received.drain(..HEADER + length);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        Ok(Some(request))
    }

    /// The next descriptor that came with a request.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
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

    /// Writes what the other side takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent = Vec::new();
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use corten_proto::shim::{Hello, request::Call};

    use super::*;

    fn pair() -> (UnixStream, Connection) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        (theirs, Connection::new(ours).unwrap())
    }

    #[test]
    fn a_frame_may_come_in_pieces() {
        let (mut daemon, mut connection) = pair();
        let request = Request {
            id: 7,
            call: Some(Call::Hello(Hello { version: 1 })),
        };
        let body = request.encode_to_vec();
        let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        frame.extend_from_slice(&body);
        for byte in &frame {
            assert_eq!(connection.next().unwrap(), None);
            daemon.write_all(&[*byte]).unwrap();
            assert!(connection.fill().unwrap());
        }
        assert_eq!(connection.next().unwrap(), Some(request));
        drop(daemon);
        assert!(!connection.fill().unwrap());
    }

    #[test]
    fn a_frame_that_is_too_large_or_rubbish_is_an_error() {
        let (mut daemon, mut connection) = pair();
        daemon.write_all(&u32::MAX.to_le_bytes()).unwrap();
        connection.fill().unwrap();
        assert!(connection.next().is_err());
        let (mut daemon, mut connection) = pair();
        daemon.write_all(&[1, 0, 0, 0, 0xff]).unwrap();
        connection.fill().unwrap();
        assert!(connection.next().is_err());
    }
}
