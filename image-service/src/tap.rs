//! Hashing and counting what passes.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

pub(crate) struct Tap<R> {
    source: R,
    hash: Sha256,
    /// Unit: bytes.
    size: u64,
}

impl<R> Tap<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            hash: Sha256::new(),
            size: 0,
        }
    }

    /// Of all that has passed, and how many bytes that were.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest::finish(self.hash), self.size)
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
