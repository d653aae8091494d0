//! Writing: everything that passes is kept, but for the bytes that go into files.

use std::fs::File;
use std::io::{self, Read, Write as _};

use crc32fast::Hasher;
use zstd::stream::write::Encoder;

use super::{END, FILE, MAGIC, MAX_RAW, RAW, SUPERSEDED};

const LEVEL: i32 = 1;

/// A stream on its way to the unpacker.
pub(crate) struct Capture<R> {
    source: R,
    raw: Vec<u8>,
    /// Of the file that is being read.
    crc: Option<Hasher>,
    out: io::Result<Encoder<'static, File>>,
}

impl<R: Read> Capture<R> {
    /// `file` is empty.
    pub(crate) fn new(source: R, file: File) -> Self {
        let begin = || {
            let mut out = Encoder::new(file, LEVEL)?;
            out.include_checksum(true)?;
            out.write_all(MAGIC)?;
            Ok(out)
        };
        Self {
            source,
            raw: Vec::new(),
            crc: None,
            out: begin(),
        }
    }

    /// What is read from now on goes into a file.
    pub(crate) fn begin_file(&mut self) {
        self.flush_raw();
        self.crc = Some(Hasher::new());
    }

    /// `path` now has what was read since, at these places (offset, length), ascending.
    pub(crate) fn end_file(&mut self, path: &[u8], fragments: &[(u64, u64)]) {
        let Some(crc) = self.crc.take() else {
            return;
        };
        let mut segment = vec![FILE];
        put_path(&mut segment, path);
        let count = u32::try_from(fragments.len()).unwrap_or(u32::MAX);
        segment.extend(count.to_le_bytes());
        for (offset, length) in fragments {
            segment.extend(offset.to_le_bytes());
            segment.extend(length.to_le_bytes());
        }
        segment.extend(crc.finalize().to_le_bytes());
        self.write(&segment);
    }

    /// What earlier entries put at `path`, or below, may be gone.
    pub(crate) fn superseded(&mut self, path: &[u8]) {
        self.flush_raw();
        let mut segment = vec![SUPERSEDED];
        put_path(&mut segment, path);
        self.write(&segment);
    }

    /// All is written, but not durable.
    ///
    /// # Errors
    /// The first of any write.
    pub(crate) fn finish(mut self) -> io::Result<(R, File)> {
        self.flush_raw();
        self.write(&[END]);
        Ok((self.source, self.out?.finish()?))
    }

    fn flush_raw(&mut self) {
        if self.raw.is_empty() {
            return;
        }
        let mut segment = std::mem::take(&mut self.raw);
        let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
        self.write(&[RAW]);
        self.write(&length.to_le_bytes());
        self.write(&segment);
        segment.clear();
        self.raw = segment;
    }

    /// The layer goes on after an error, which [`Capture::finish`] tells.
    fn write(&mut self, bytes: &[u8]) {
        if let Ok(out) = &mut self.out
            && let Err(error) = out.write_all(bytes)
        {
            self.out = Err(error);
        }
    }
}

fn put_path(segment: &mut Vec<u8>, path: &[u8]) {
    let length = u16::try_from(path.len()).unwrap_or(u16::MAX);
    segment.extend(length.to_le_bytes());
    segment.extend_from_slice(&path[..usize::from(length)]);
}

impl<R: Read> Read for Capture<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        match &mut self.crc {
            Some(crc) => crc.update(&buffer[..read]),
            None => {
                for part in buffer[..read].chunks(MAX_RAW) {
                    if self.raw.len() + part.len() > MAX_RAW {
                        self.flush_raw();
                    }
                    self.raw.extend_from_slice(part);
                }
            }
        }
        Ok(read)
    }
}
