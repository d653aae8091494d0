//! What a command prints, as the daemon reads it: to the end of its output, or to its own end and a while beyond, since others
//! may hold the output open.

use std::os::fd::AsFd;

use bytes::BytesMut;
use rustix::io::ioctl_fionread;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::watch,
    time::{Instant, sleep_until},
};

/// Bytes read at once.
const READ: usize = 32 << 10;

/// `None` as long as the command runs; then, until when others may print.
pub(crate) type End = watch::Receiver<Option<Instant>>;

/// The reading end of one of its streams.
#[derive(Debug)]
pub(crate) struct Printed {
    pipe: pipe::Receiver,
    end: End,
    is_terminal: bool,
    deadline: Option<Instant>,
    /// Bytes that it had printed by its end, whatever the time.
    owed: usize,
}

impl Printed {
    pub(crate) fn new(pipe: pipe::Receiver, end: End) -> Self {
        Self {
            pipe,
            end,
            is_terminal: false,
            deadline: None,
            owed: 0,
        }
    }

    /// `master` is that of the command's terminal, which is hung up for all others by the command's end.
    pub(crate) fn by_terminal(master: pipe::Receiver, end: End) -> Self {
        Self {
            is_terminal: true,
            ..Self::new(master, end)
        }
    }

    /// Waits for output and appends it to `buffer`. Returns how many bytes; 0: there will be no more, or time is over.
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut) -> usize {
        buffer.reserve(READ);
        loop {
            if self.is_terminal && self.deadline.is_some() {
                return self.rest(buffer);
            }
            tokio::select! {
                biased;
                () = until(self.deadline), if self.owed == 0 => return 0,
                ended = self.end.wait_for(Option::is_some), if self.deadline.is_none() => {
                    // Where the one who would tell has gone, so have we in a moment.
                    self.deadline = ended.map_or(Some(Instant::now()), |end| *end);
                    self.owed = waiting(&self.pipe);
                }
                read = self.pipe.read_buf(buffer) => {
                    let length = read.unwrap_or(0);
                    self.owed = self.owed.saturating_sub(length);
                    return length;
                }
            }
        }
    }

    /// What a terminal still has. Only a read brings out what is on its way in the kernel: neither FIONREAD nor the poller
    /// knows of it. A process of the background may have it open for ever, and can no longer print.
    fn rest(&self, buffer: &mut BytesMut) -> usize {
        let mut chunk = [0; 4096];
        let length = rustix::io::read(&self.pipe, &mut chunk).unwrap_or(0);
        buffer.extend_from_slice(&chunk[..length]);
        length
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Bytes that are in the pipe.
fn waiting(pipe: &pipe::Receiver) -> usize {
    let waiting = ioctl_fionread(pipe.as_fd()).unwrap_or(0);
    usize::try_from(waiting).unwrap_or(usize::MAX)
}
