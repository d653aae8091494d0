//! A netlink socket: requests, and what the kernel answers to each.

use std::{fs::File, io, path::Path};

use corten_sys::thread;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};

use super::message::{ACK, HEADER, Message};

/// linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BUFFER: usize = 64 << 10;

/// A socket in one network namespace.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// What the kernel has answered to one message.
pub(crate) type Answer = Result<Vec<Vec<u8>>, io::Error>;

impl Netlink {
    /// In this process's own namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// In the namespace that is pinned on `path`: a socket stays in the one that it was made in.
    pub(crate) fn open_in(path: &Path, protocol: isize) -> io::Result<Self> {
        let namespace = File::open(path)?;
        thread::disposable("netns", || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            Self::open(protocol)
        })?
    }

    /// Sends one message and waits for its acknowledgement; the bodies of what comes before it are the answer.
    pub(crate) fn request(&mut self, message: Message) -> Answer {
        self.batch(vec![message])?
            .pop()
            .unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Sends messages in one go. There is an answer to each.
    pub(crate) fn batch(&mut self, messages: Vec<Message>) -> io::Result<Vec<Answer>> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let count = messages.len();
        for mut message in messages {
            message.add_flags(ACK);
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend(message.finish(self.sequence));
        }
        self.exchange(&bytes, first, count)
    }

    /// As [`Self::batch`], between two messages that bracket a transaction and have no answer.
    pub(crate) fn transaction(
        &mut self,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
    ) -> io::Result<Vec<Answer>> {
        let count = messages.len();
        let mut bytes = begin.finish(self.sequence);
        let first = self.sequence.wrapping_add(1);
        for mut message in messages {
            message.add_flags(ACK);
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend(message.finish(self.sequence));
        }
        self.sequence = self.sequence.wrapping_add(1);
        bytes.extend(end.finish(self.sequence));
        self.exchange(&bytes, first, count)
    }

    fn exchange(&mut self, bytes: &[u8], first: u32, count: usize) -> io::Result<Vec<Answer>> {
        self.socket.send(bytes, 0)?;
        let mut answers: Vec<Option<Answer>> = (0..count).map(|_| None).collect();
        let mut bodies: Vec<Vec<Vec<u8>>> = vec![Vec::new(); count];
        while answers.iter().any(Option::is_none) {
            let mut buffer = Vec::with_capacity(BUFFER);
            self.socket.recv(&mut buffer, 0)?;
            for (kind, sequence, body) in split(&buffer) {
                let index = sequence.wrapping_sub(first) as usize;
                let Some(answer) = answers.get_mut(index) else {
                    // A transaction that is refused as a whole is told at its beginning.
                    if let (ERROR, Some(error)) = (kind, error(body)) {
                        return Err(error);
                    }
                    continue;
                };
                match kind {
                    ERROR => {
                        *answer = Some(
                            error(body).map_or_else(|| Ok(std::mem::take(&mut bodies[index])), Err),
                        )
                    }
                    DONE => *answer = Some(Ok(std::mem::take(&mut bodies[index]))),
                    _ => bodies[index].push(body.to_vec()),
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

/// `None` is an acknowledgement.
fn error(body: &[u8]) -> Option<io::Error> {
    let errno = body
        .first_chunk::<4>()
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    (errno != 0).then(|| io::Error::from_raw_os_error(-errno))
}

/// Type, sequence number and body of each message.
fn split(mut bytes: &[u8]) -> Vec<(u16, u32, &[u8])> {
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let Some(body) = bytes.get(HEADER..length) else {
            break;
        };
        found.push((kind, sequence, body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}
