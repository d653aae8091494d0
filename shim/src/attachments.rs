//! Clients that are shown what the container prints, as it prints it. The log has everything; a client that reads too
//! slowly gets less, and is told how much less, since a container waits for no client.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
};

use rustix::{io::ioctl_fionbio, pipe::fcntl_setpipe_size};

use crate::{
    failure::{Doing, Result},
    log::Stream,
};

/// What waits for a client in its pipe, bytes: as much as pipe(7) grants to anybody.
const PIPE: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Attachments(Vec<Attachment>);

/// The streams of one client.
#[derive(Debug)]
struct Attachment {
    connection: u64,
    stdout: Option<Copy>,
    stderr: Option<Copy>,
}

#[derive(Debug)]
struct Copy {
    pipe: File,
    /// Bytes that found no place, and that the client does not know of yet.
    lost: usize,
}

impl Attachments {
    /// Of the client on this connection; a stream that it did not ask for is `None`.
    pub(crate) fn add(
        &mut self,
        connection: u64,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Result<()> {
        let copy = |pipe: Option<OwnedFd>| pipe.map(Copy::new).transpose();
        self.0.push(Attachment {
            connection,
            stdout: copy(stdout)?,
            stderr: copy(stderr)?,
        });
        Ok(())
    }

    pub(crate) fn remove(&mut self, connection: u64) {
        self.0
            .retain(|attachment| attachment.connection != connection);
    }

    /// Shows it to all clients, without waiting for any.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        for attachment in &mut self.0 {
            let copy = match stream {
                Stream::Stdout => &mut attachment.stdout,
                Stream::Stderr => &mut attachment.stderr,
            };
            // A client that has gone is forgotten when its connection ends.
            if copy.as_mut().is_some_and(|copy| copy.write(bytes).is_err()) {
                *copy = None;
            }
        }
    }

    /// The stream has ended.
    pub(crate) fn finish(&mut self, stream: Stream) {
        for attachment in &mut self.0 {
            match stream {
                Stream::Stdout => attachment.stdout = None,
                Stream::Stderr => attachment.stderr = None,
            }
        }
    }
}

impl Copy {
    fn new(pipe: OwnedFd) -> Result<Self> {
        ioctl_fionbio(&pipe, true).doing("set up", "an attached client's pipe")?;
        // Where all have too much already it stays as it is.
        let _ = fcntl_setpipe_size(&pipe, PIPE);
        Ok(Self {
            pipe: File::from(pipe),
            lost: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.lost > 0 {
            let note = format!("\r\n[{} bytes are in the log only]\r\n", self.lost);
            // As a whole, or not at all: it is shorter than PIPE_BUF.
            match self.write_some(note.as_bytes())? {
                0 => {
                    self.lost += bytes.len();
                    return Ok(());
                }
                _ => self.lost = 0,
            }
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.write_some(rest)? {
                0 => break,
                length => rest = &rest[length..],
            }
        }
        self.lost += rest.len();
        Ok(())
    }

    /// 0: there is no place.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.pipe.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::AsFd};

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    /// A client's end, and those of a shim that shows it standard output.
    fn attach(attachments: &mut Attachments, connection: u64) -> File {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        ioctl_fionbio(read.as_fd(), true).unwrap();
        attachments.add(connection, Some(write), None).unwrap();
        File::from(read)
    }

    fn read(file: &mut File) -> Vec<u8> {
        let (mut all, mut chunk) = (Vec::new(), vec![0; 1 << 20]);
        while let Ok(length @ 1..) = file.read(&mut chunk) {
            all.extend_from_slice(&chunk[..length]);
        }
        all
    }

    #[test]
    fn each_client_sees_its_streams_until_it_goes() {
        let mut attachments = Attachments::default();
        let (mut first, mut second) = (attach(&mut attachments, 1), attach(&mut attachments, 2));
        attachments.write(Stream::Stdout, b"one");
        attachments.write(Stream::Stderr, b"not asked for");
        attachments.remove(1);
        attachments.write(Stream::Stdout, b"two");
        assert_eq!(read(&mut first), b"one");
        assert_eq!(read(&mut second), b"onetwo");
        drop(second);
        attachments.write(Stream::Stdout, b"three");
        assert!(attachments.0[0].stdout.is_none());
    }

    #[test]
    fn a_slow_client_is_told_what_it_has_missed() {
        let mut attachments = Attachments::default();
        let mut client = attach(&mut attachments, 1);
        let chunk = [b'x'; 64 << 10];
        let mut written = 0;
        while attachments.0[0].stdout.as_ref().unwrap().lost == 0 {
            attachments.write(Stream::Stdout, &chunk);
            written += chunk.len();
            assert!(written < 64 << 20);
        }
        attachments.write(Stream::Stdout, &chunk);
        written += chunk.len();
        let seen = read(&mut client).len();
        attachments.write(Stream::Stdout, b"again");
        let want = format!(
            "\r\n[{} bytes are in the log only]\r\nagain",
            written - seen
        );
        assert_eq!(String::from_utf8(read(&mut client)).unwrap(), want);
    }
}
