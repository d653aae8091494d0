//! Reading: the archive comes out again, files' bytes from the unpacked layer.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use corten_sys::open::{Descriptors, openat2};
use crc32fast::Hasher;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use zstd::stream::read::Decoder;

use super::{END, FILE, MAGIC, MAX_RAW, RAW, SUPERSEDED};

/// As in `unpack::sparse`.
const MAX_FRAGMENTS: u32 = 1 << 20;

/// What the reader of an archive should know that the archive itself does not say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A file is not what it was.
    Changed { path: Vec<u8>, what: &'static str },
    /// A later entry took away what earlier ones put there, so that the archive cannot be made again.
    Superseded(Vec<u8>),
}

enum Segment {
    Raw(usize),
    File {
        path: Vec<u8>,
        fragments: Vec<(u64, u64)>,
        crc: u32,
    },
    Superseded(Vec<u8>),
    End,
}

/// The archive. Where a file's bytes are not there, zeros take their place, and `tell` hears of it.
pub(crate) struct Rebuilt<'a, F> {
    layer: BorrowedFd<'a>,
    descriptors: Descriptors,
    segments: Segments,
    state: State,
    tell: F,
}

enum State {
    Between,
    Raw(usize),
    Payload(Payload),
    Ended,
}

struct Payload {
    path: Vec<u8>,
    file: Option<File>,
    /// Those to come, last first.
    fragments: Vec<(u64, u64)>,
    crc: Hasher,
    want: u32,
    fault: Option<&'static str>,
}

impl<'a, F: FnMut(Event)> Rebuilt<'a, F> {
    /// # Errors
    /// InvalidData if it is no such file.
    pub(crate) fn new(split: File, layer: BorrowedFd<'a>, tell: F) -> io::Result<Self> {
        Ok(Self {
            layer,
            descriptors: Descriptors::of_self()?,
            segments: Segments::open(split)?,
            state: State::Between,
            tell,
        })
    }

    fn advance(&mut self) -> io::Result<()> {
        self.state = match self.segments.next()? {
            Segment::Raw(length) => State::Raw(length),
            Segment::Superseded(path) => {
                (self.tell)(Event::Superseded(path));
                State::Between
            }
            Segment::End => State::Ended,
            Segment::File {
                path,
                mut fragments,
                crc,
            } => {
                fragments.reverse();
                let (file, fault) = self.open_file(&path);
                State::Payload(Payload {
                    path,
                    file,
                    fragments,
                    crc: Hasher::new(),
                    want: crc,
                    fault,
                })
            }
        };
        Ok(())
    }

    fn open_file(&self, path: &[u8]) -> (Option<File>, Option<&'static str>) {
        match self.open_at(path) {
            Ok(Some(file)) => (Some(file.into()), None),
            Err(Errno::NOENT) => (None, Some("it is missing")),
            Ok(None) | Err(_) => (None, Some("it is no regular file")),
        }
    }

    /// A later entry of the archive may have put a device in the file's place.
    fn open_at(&self, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let place = openat2(self.layer, path, flags, Mode::empty(), resolve)?;
        self.descriptors.open_file(place.as_fd(), OFlags::RDONLY)
    }

    fn end_payload(&mut self) {
        let State::Payload(payload) = std::mem::replace(&mut self.state, State::Between) else {
            return;
        };
        let is_right = payload.crc.finalize() == payload.want;
        let fault = payload
            .fault
            .or((!is_right).then_some("its content has changed"));
        if let Some(what) = fault {
            let path = payload.path;
            (self.tell)(Event::Changed { path, what });
        }
    }
}

impl<F: FnMut(Event)> Read for Rebuilt<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.state {
                State::Ended => return Ok(0),
                State::Between => self.advance()?,
                State::Raw(0) => self.state = State::Between,
                State::Raw(left) => {
                    let want = buffer.len().min(*left);
                    let read = self.segments.source.read(&mut buffer[..want])?;
                    if read == 0 {
                        return Err(broken());
                    }
                    *left -= read;
                    return Ok(read);
                }
                State::Payload(payload) => match payload.read(buffer) {
                    0 => self.end_payload(),
                    read => return Ok(read),
                },
            }
        }
    }
}

impl Payload {
    /// 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        while let Some((offset, length)) = self.fragments.last_mut() {
            let want = usize::try_from(*length).unwrap_or(usize::MAX);
            let buffer_length = buffer.len().min(want);
            let part = &mut buffer[..buffer_length];
            if part.is_empty() {
                self.fragments.pop();
                continue;
            }
            if let Some(file) = &self.file {
                match file.read_at(part, *offset) {
                    Ok(read) if read > 0 => {
                        self.crc.update(&part[..read]);
                        *offset += as_u64(read);
                        *length -= as_u64(read);
                        return read;
                    }
                    Ok(_) => self.fail("it is shorter than it should be"),
                    Err(_) => self.fail("it cannot be read"),
                }
                continue;
            }
            part.fill(0);
            *offset += as_u64(buffer_length);
            *length -= as_u64(buffer_length);
            return buffer_length;
        }
        0
    }

    fn fail(&mut self, what: &'static str) {
        self.file = None;
        self.fault = Some(what);
    }
}

/// The file, decoded.
struct Segments {
    source: BufReader<Decoder<'static, BufReader<File>>>,
}

impl Segments {
    fn open(split: File) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(MAX_RAW, Decoder::new(split)?);
        let mut magic = [0; MAGIC.len()];
        source.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(broken());
        }
        Ok(Self { source })
    }

    fn next(&mut self) -> io::Result<Segment> {
        match self.array::<1>()? {
            [RAW] => {
                let length = u32::from_le_bytes(self.array()?);
                match usize::try_from(length) {
                    Ok(length) if length <= MAX_RAW => Ok(Segment::Raw(length)),
                    _ => Err(broken()),
                }
            }
            [FILE] => {
                let path = self.path()?;
                let count = u32::from_le_bytes(self.array()?);
                if count > MAX_FRAGMENTS {
                    return Err(broken());
                }
                let mut fragments = Vec::new();
                for _ in 0..count {
                    let offset = u64::from_le_bytes(self.array()?);
                    let length = u64::from_le_bytes(self.array()?);
                    offset.checked_add(length).ok_or_else(broken)?;
                    fragments.push((offset, length));
                }
                Ok(Segment::File {
                    path,
                    fragments,
                    crc: u32::from_le_bytes(self.array()?),
                })
            }
            [SUPERSEDED] => Ok(Segment::Superseded(self.path()?)),
            [END] => Ok(Segment::End),
            _ => Err(broken()),
        }
    }

    fn path(&mut self) -> io::Result<Vec<u8>> {
        let length = u16::from_le_bytes(self.array()?);
        let mut path = vec![0; usize::from(length)];
        self.source.read_exact(&mut path)?;
        Ok(path)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn broken() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the layer's tar-split file is broken",
    )
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
