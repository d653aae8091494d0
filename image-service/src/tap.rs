//! Hashing and counting what passes.

use std::io::{self, Read};

use crate::digest::{Algorithm, Digest, Hash};

pub(crate) struct Tap<R> {
    source: R,
    hash: Hash,
    /// Unit: bytes.
    size: u64,
}

impl<R> Tap<R> {
    /// Tap whose digest is to be compared with one by `algorithm`.
    pub(crate) fn new(source: R, algorithm: Algorithm) -> Self {
        Self {
            source,
            hash: Hash::new(algorithm),
            size: 0,
        }
    }

    /// Of all that has passed, and how many bytes that were.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (self.hash.finish(), self.size)
    }
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.size += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}
