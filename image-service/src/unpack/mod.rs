//! A layer's stream becomes a directory, on one blocking thread.
//!
//! ```text
//! source -> SHA-256 of the blob -> gzip | zstd | nothing -> SHA-256 of the diff -> archive -> tree
//! ```
//!
//! The caller must not show the directory to anyone unless [`layer`] returned Ok: only then do both
//! digests hold. `archive` reads tar, `tree` writes below one directory descriptor, and what one
//! entry may do to it is decided in `entry`.

mod entry;

mod tree;

mod archive;

mod sparse;

mod pax;

mod name;

pub(crate) use archive::{Archive, Kind};

use std::io::{self, BufRead as _, BufReader, Read};
use std::os::fd::OwnedFd;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::error::Error;
use crate::store::Trash;
use tree::Tree;

const BUFFER: usize = 128 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A zstd file may begin with a frame to skip, as zstd:chunked's do. The low nibble is free.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// What a layer must be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// Of the bytes as they come; `None` if only the content is known, as in docker archives.
    pub(crate) blob: Option<Digest>,
    pub(crate) diff_id: Digest,
}

/// What a layer takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Unit: bytes, in whole blocks of 4096.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Why a layer cannot be unpacked.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes do not come, or do not inflate.
    Stream(io::Error),
    /// The bytes are no tar archive.
    Archive(&'static str),
    Entry {
        name: Vec<u8>,
        reason: String,
        source: Option<io::Error>,
    },
}

/// Unpacks into the empty directory `root`; what is replaced on the way goes to `trash`, which must
/// be on the same file system.
///
/// # Errors
/// DigestMismatch, InvalidContent (which names the entry), NoSpace. `root` is then of no use.
pub(crate) fn layer(
    source: impl Read,
    expected: &Expected,
    root: OwnedFd,
    trash: &Trash,
) -> Result<Written, Error> {
    let mut blob = Tap::new(source);
    let outcome = content(&mut blob, Tree::new(root, trash));
    let subject = format!("layer {}", expected.diff_id);
    let (got, written) = match outcome {
        Ok(done) => done,
        // Bytes that make no sense are mostly not the bytes that were asked for: say that then.
        Err(fault @ (Fault::Stream(_) | Fault::Archive(_))) => {
            let drained = io::copy(&mut blob, &mut io::sink());
            if drained.is_ok() {
                check_blob(&subject, expected, blob)?;
            }
            return Err(fault.into_error(&expected.diff_id));
        }
        Err(fault) => return Err(fault.into_error(&expected.diff_id)),
    };
    // A decoder may stop before the last byte; the digest is over all of them.
    io::copy(&mut blob, &mut io::sink())
        .map_err(|error| Fault::Stream(error).into_error(&expected.diff_id))?;
    check_blob(&subject, expected, blob)?;
    if got != expected.diff_id {
        let subject = format!("uncompressed content of {subject}");
        return Err(Error::digest(subject, &expected.diff_id, &got));
    }
    Ok(written)
}

fn check_blob<R>(subject: &str, expected: &Expected, blob: Tap<R>) -> Result<(), Error> {
    let got = Digest::finish(blob.hash);
    match &expected.blob {
        Some(want) if *want != got => Err(Error::digest(format!("blob of {subject}"), want, &got)),
        _ => Ok(()),
    }
}

fn content(blob: &mut impl Read, tree: Tree<'_>) -> Result<(Digest, Written), Fault> {
    let mut blob = BufReader::with_capacity(BUFFER, blob);
    let decoded = decode(&mut blob).map_err(Fault::Stream)?;
    let mut diff = BufReader::with_capacity(BUFFER, Tap::new(decoded));
    let written = entry::apply_all(&mut Archive::new(&mut diff), tree)?;
    io::copy(&mut diff, &mut io::sink()).map_err(Fault::Stream)?;
    Ok((Digest::finish(diff.into_inner().hash), written))
}

/// By the first bytes, since media types lie and docker archives have none.
pub(crate) fn decode<'a>(source: &'a mut BufReader<impl Read>) -> io::Result<Box<dyn Read + 'a>> {
    match format(source)? {
        Format::Plain => Ok(Box::new(source)),
        Format::Gzip => Ok(Box::new(MultiGzDecoder::new(source))),
        Format::Zstd => Ok(Box::new(zstd::stream::read::Decoder::with_buffer(source)?)),
    }
}

pub(crate) fn is_compressed(source: &mut BufReader<impl Read>) -> io::Result<bool> {
    Ok(format(source)? != Format::Plain)
}

#[derive(PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Zstd,
}

fn format(source: &mut BufReader<impl Read>) -> io::Result<Format> {
    let head = source.fill_buf()?;
    if head.starts_with(&GZIP_MAGIC) {
        return Ok(Format::Gzip);
    }
    if head.starts_with(&ZSTD_MAGIC) || head.get(1..4) == Some(&ZSTD_SKIPPABLE) {
        return Ok(Format::Zstd);
    }
    Ok(Format::Plain)
}

impl Fault {
    /// For archives that are no layers.
    pub(crate) fn reason(self) -> String {
        match self {
            Self::Stream(error) => error.to_string(),
            Self::Archive(reason) => reason.to_owned(),
            Self::Entry { reason, .. } => reason,
        }
    }

    fn into_error(self, diff_id: &Digest) -> Error {
        match self {
            Self::Stream(source) => match source.kind() {
                io::ErrorKind::ConnectionAborted => Error::Stopped("unpacking"),
                _ => Error::content(format!("layer {diff_id}"), source),
            },
            Self::Archive(reason) => Error::content(format!("layer {diff_id}"), reason),
            Self::Entry {
                name,
                reason,
                source,
            } => Error::Entry {
                layer: diff_id.to_string(),
                entry: String::from_utf8_lossy(&name).into_owned(),
                reason,
                source,
            },
        }
    }
}

/// Hashes what passes.
struct Tap<R> {
    source: R,
    hash: Sha256,
}

impl<R> Tap<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            hash: Sha256::new(),
        }
    }
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
