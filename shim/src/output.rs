//! The container's output: two pipes into the log.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    pipe::{PipeFlags, pipe_with},
    time::Timespec,
};

use crate::{
    attachments::Attachments,
    failure::{Doing, Result},
    log::{Log, Stream},
    poll::{Poll, Source},
};

const CHUNK: usize = 64 << 10;
/// How long output is read after the container's last process has been killed.
const DRAIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) log: Log,
    pub(crate) attachments: Attachments,
    stdout: Option<File>,
    stderr: Option<File>,
    is_terminal: bool,
}

impl Output {
    /// Makes the pipes. Returns the ends that the container writes to.
    pub(crate) fn open(log: Log, events: &Poll) -> Result<(Self, OwnedFd, OwnedFd)> {
        let (stdout, container_stdout) = pipe(events, Source::Stdout)?;
        let (stderr, container_stderr) = pipe(events, Source::Stderr)?;
        Ok((
            Self {
                log,
                attachments: Attachments::default(),
                stdout: Some(stdout),
                stderr: Some(stderr),
                is_terminal: false,
            },
            container_stdout,
            container_stderr,
        ))
    }

    /// Reads from the container's terminal, which is standard output and standard error in one.
    pub(crate) fn set_terminal(&mut self, master: OwnedFd, events: &Poll) -> Result<()> {
        rustix::io::ioctl_fionbio(&master, true).doing("set up", "the terminal")?;
        if let Some(pipe) = self.stdout.take() {
            events.remove(&pipe);
        }
        events
            .add(&master, Source::Stdout)
            .doing("watch", "the terminal")?;
        self.stdout = Some(File::from(master));
        self.is_terminal = true;
        Ok(())
    }

    /// The master of the container's terminal, for another who writes to it.
    pub(crate) fn terminal(&self) -> io::Result<Option<OwnedFd>> {
        let stdout = self.stdout.as_ref().filter(|_| self.is_terminal);
        stdout
            .map(|master| master.try_clone().map(OwnedFd::from))
            .transpose()
    }

    /// Reads once what there is; at the end of the stream it is closed.
    pub(crate) fn read(&mut self, stream: Stream, events: &Poll) {
        let pipe = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(file) = pipe else { return };
        // So large that the allocator maps it, and gives it back: only what is read costs memory, and only now.
        let mut chunk = vec![0; CHUNK];
        match file.read(&mut chunk) {
            Ok(length @ 1..) => {
                self.log.write(stream, &chunk[..length]);
                self.attachments.write(stream, &chunk[..length]);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            // A terminal whose other side is closed says EIO and not that it is at its end.
            Ok(0) | Err(_) => {
                events.remove(file);
                *pipe = None;
                self.log.finish(stream);
                self.attachments.finish(stream);
            }
        }
    }

    /// Reads to the end of both streams. A process that was not found may hold them open: that is not waited for.
    pub(crate) fn drain(&mut self, events: &Poll) {
        let end = Instant::now() + DRAIN;
        while self.stdout.is_some() || self.stderr.is_some() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wait(left) {
                break;
            }
            self.read(Stream::Stdout, events);
            self.read(Stream::Stderr, events);
        }
        self.log.finish(Stream::Stdout);
        self.log.finish(Stream::Stderr);
    }

    fn wait(&self, left: Duration) -> bool {
        let open = [&self.stdout, &self.stderr].into_iter().flatten();
        let mut fds: Vec<_> = open.map(|file| PollFd::new(file, PollFlags::IN)).collect();
        let seconds = i64::try_from(left.as_secs()).unwrap_or_default();
        let limit = Timespec {
            tv_sec: seconds,
            tv_nsec: left.subsec_nanos().into(),
        };
        !matches!(poll(&mut fds, Some(&limit)), Ok(0))
    }
}

fn pipe(events: &Poll, source: Source) -> Result<(File, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).doing("make a pipe", "")?;
    // Ours alone: the container's end must block as programs expect it.
    rustix::io::ioctl_fionbio(&read, true).doing("set up a pipe", "")?;
    events.add(&read, source).doing("watch a pipe", "")?;
    Ok((File::from(read), write))
}
