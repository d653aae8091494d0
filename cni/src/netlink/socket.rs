//! A netlink socket: requests, and what the kernel answers to each.

use std::{fs::File, io, path::Path, time::Duration};

use corten_sys::thread;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout};

use super::message::{ACK, HEADER, Message};

/// linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BUFFER: usize = 64 << 10;
/// The kernel answers at once; this bounds what a lost answer costs.
const PATIENCE: Duration = Duration::from_secs(10);

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
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
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
            bytes.extend(message.finish(self.next()));
        }
        self.exchange(&bytes, first, count)
    }

    /// Sends messages between two that bracket a transaction: all of them take effect, or none.
    ///
    /// # Errors
    /// Of the first message that is refused. Only the last one is acknowledged, since the acknowledgements of a large
    /// transaction would not fit into the socket's buffer; and a refusal of any other comes before that.
    pub(crate) fn transaction(
        &mut self,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
    ) -> io::Result<()> {
        let Some(last) = messages.len().checked_sub(1) else {
            return Ok(());
        };
        let whole = self.next();
        let mut bytes = begin.finish(whole);
        for (index, mut message) in messages.into_iter().enumerate() {
            if index == last {
                message.add_flags(ACK);
            }
            bytes.extend(message.finish(self.next()));
        }
        let acknowledged = self.sequence;
        bytes.extend(end.finish(self.next()));
        set_socket_send_buffer_size_force(&self.socket, bytes.len().max(BUFFER))?;
        self.socket.send(&bytes, 0)?;
        let mut first = Ok(());
        loop {
            let answers = self.receive()?;
            for (_, sequence, body) in split(&answers).filter(|(kind, ..)| *kind == ERROR) {
                first = first.and(error(body).map_or(Ok(()), Err));
                // A transaction that is refused as a whole is told at its beginning.
                if sequence == acknowledged || sequence == whole {
                    return first;
                }
            }
        }
    }

    fn exchange(&mut self, bytes: &[u8], first: u32, count: usize) -> io::Result<Vec<Answer>> {
        self.socket.send(bytes, 0)?;
        let mut answers: Vec<Option<Answer>> = (0..count).map(|_| None).collect();
        let mut bodies: Vec<Vec<Vec<u8>>> = vec![Vec::new(); count];
        while answers.iter().any(Option::is_none) {
            let received = self.receive()?;
            for (kind, sequence, body) in split(&received) {
                let index = sequence.wrapping_sub(first) as usize;
                let Some(answer) = answers.get_mut(index) else {
                    continue;
                };
                match (kind, error(body)) {
                    (ERROR, Some(error)) => *answer = Some(Err(error)),
                    (ERROR | DONE, _) => *answer = Some(Ok(std::mem::take(&mut bodies[index]))),
                    _ => bodies[index].push(body.to_vec()),
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(BUFFER);
        self.socket.recv(&mut buffer, 0)?;
        Ok(buffer)
    }
}

/// `None` is an acknowledgement.
fn error(body: &[u8]) -> Option<io::Error> {
    let errno = body
        .first_chunk::<4>()
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    (errno != 0).then(|| io::Error::from_raw_os_error(-errno))
}

/// Type, sequence number and body of each message. What is cut off is left out.
fn split(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, body))
    })
}
