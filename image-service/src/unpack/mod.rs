//! A layer's stream becomes a directory, on two blocking threads.
//!
//! ```text
//! source -> SHA-256 of the blob -> gzip | zstd | nothing -> | -> SHA-256 of the diff -> archive -> tree
//! ```
//!
//! The caller must not show the directory to anyone unless [`layer`] returned Ok: only then do both
//! digests hold. `archive` reads tar, `tree` writes below one directory descriptor, and what one
//! entry may do to it is decided in `entry`.

mod entry;

mod tree;

mod archive;

mod header;

mod sparse;

mod pax;

mod implied;

mod inflate;

mod gzip;

mod name;

pub(crate) use archive::{Archive, Kind, Member};
pub(crate) use entry::{Change, change_of, is_kept};
pub(crate) use implied::mend;
pub(crate) use name::Name;
pub(crate) use tree::OPAQUE;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::fd::OwnedFd;
use std::thread;

use crate::digest::{Algorithm, Digest};
use crate::error::{Error, brief};
use crate::store::Trash;
use crate::tap::Tap;
use crate::tar_split::Capture;
use tree::Tree;

const BUFFER: usize = 128 << 10;
/// Of a file system: what files take is counted in these.
const BLOCK: u64 = 4096;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A zstd file may begin with a frame to skip, as zstd:chunked's do. The low nibble is free.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Beginnings of archives that other tools pack. No name in an archive is likely to begin so.
const OTHER_MAGICS: [(&[u8], &str); 3] = [
    (b"BZh91AY&SY", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
];

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

/// A layer's directory as it was written.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    pub(crate) written: Written,
    /// Directories without an entry of their own, for [`mend`]; the root is the empty path.
    pub(crate) implied: Vec<Vec<u8>>,
}

/// Why a layer cannot be unpacked.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes do not come, or do not inflate.
    Stream(io::Error),
    /// The bytes are no tar archive.
    Archive(&'static str),
    /// They are none at this entry.
    At { name: Vec<u8>, reason: &'static str },
    /// What is kept of the archive cannot be written.
    TarSplit(io::Error),
    Entry {
        name: Vec<u8>,
        reason: String,
        source: Option<io::Error>,
    },
}

/// Unpacks into the empty directory `root`, and writes the rest of the archive to the empty file `tar_split`; what is
/// replaced on the way goes to `trash`, which must be on the same file system.
///
/// # Errors
/// DigestMismatch, InvalidContent (which names the entry), NoSpace. `root` is then of no use.
pub(crate) fn layer(
    source: impl Read + Send,
    expected: &Expected,
    root: OwnedFd,
    tar_split: File,
    trash: &Trash,
) -> Result<Unpacked, Error> {
    let by = expected.diff_id.algorithm();
    let blob_by = expected.blob.map_or(by, |blob| blob.algorithm());
    let mut blob = Tap::new(source, blob_by);
    let outcome = content(&mut blob, by, Tree::new(root, trash), tar_split);
    let subject = format!("layer {}", expected.diff_id);
    let (got, unpacked) = match outcome {
        Ok(done) => done,
        // Bytes that make no sense are mostly not the bytes that were asked for: say that then.
        Err(fault @ (Fault::Stream(_) | Fault::Archive(_) | Fault::At { .. })) => {
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
    Ok(unpacked)
}

fn check_blob<R>(subject: &str, expected: &Expected, blob: Tap<R>) -> Result<(), Error> {
    let (got, _) = blob.finish();
    match &expected.blob {
        Some(want) if *want != got => Err(Error::digest(format!("blob of {subject}"), want, &got)),
        _ => Ok(()),
    }
}

fn content(
    blob: &mut (impl Read + Send),
    diff_by: Algorithm,
    tree: Tree<'_>,
    tar_split: File,
) -> Result<(Digest, Unpacked), Fault> {
    let mut blob = BufReader::with_capacity(BUFFER, blob);
    thread::scope(|scope| {
        let inflated = inflate::ahead(scope, &mut blob).map_err(Fault::Stream)?;
        let diff = BufReader::with_capacity(BUFFER, Tap::new(inflated, diff_by));
        let mut archive = Archive::new(Capture::new(diff, tar_split));
        let mut unpacked = entry::apply_all(&mut archive, tree)?;
        let mut capture = archive.into_source();
        io::copy(&mut capture, &mut io::sink()).map_err(Fault::Stream)?;
        let (diff, tar_split) = capture.finish().map_err(Fault::TarSplit)?;
        let size = tar_split.metadata().map_err(Fault::TarSplit)?.len();
        unpacked.written.bytes += size.next_multiple_of(BLOCK);
        unpacked.written.inodes += 1;
        Ok((diff.into_inner().finish().0, unpacked))
    })
}

/// By the first bytes, since media types lie and docker archives have none.
pub(crate) fn decode<'a>(source: &'a mut BufReader<impl Read>) -> io::Result<Box<dyn Read + 'a>> {
    match format(source)? {
        Format::Plain => Ok(Box::new(source)),
        Format::Gzip => Ok(Box::new(gzip::Gzip::new(source))),
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
    if let Some((_, name)) = OTHER_MAGICS
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
    {
        let text = format!("it is compressed by {name}; layers are by gzip, zstd or not at all");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    if head.starts_with(&GZIP_MAGIC) {
        return Ok(Format::Gzip);
    }
    if head.starts_with(&ZSTD_MAGIC) || head.get(1..4) == Some(&ZSTD_SKIPPABLE) {
        return Ok(Format::Zstd);
    }
    Ok(Format::Plain)
}

impl Fault {
    /// What is wrong with an archive is wrong with one of its entries.
    fn of(self, entry: &[u8]) -> Self {
        match self {
            Self::Archive(reason) => Self::At {
                name: entry.to_vec(),
                reason,
            },
            other => other,
        }
    }

    /// For archives that are no layers.
    pub(crate) fn reason(self) -> String {
        match self {
            Self::Stream(error) => error.to_string(),
            Self::Archive(reason) | Self::At { reason, .. } => reason.to_owned(),
            Self::TarSplit(error) => error.to_string(),
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
            Self::At { name, reason } => Error::Entry {
                layer: diff_id.to_string(),
                entry: brief(String::from_utf8_lossy(&name).into_owned()),
                reason: reason.to_owned(),
                source: None,
            },
            Self::TarSplit(source) => Error::Entry {
                layer: diff_id.to_string(),
                entry: "/".to_owned(),
                reason: format!("write its tar-split file: {source}"),
                source: Some(source),
            },
            Self::Entry {
                name,
                reason,
                source,
            } => Error::Entry {
                layer: diff_id.to_string(),
                entry: brief(String::from_utf8_lossy(&name).into_owned()),
                reason,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use tar::{Builder, EntryType, Header};

    use super::*;

    /// One entry of each kind, with PAX records and a sparse file.
    fn archive() -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        let mut add = |name: &str, kind, link: &str, content: &[u8]| {
            let mut header = Header::new_gnu();
            header.set_path(name).unwrap();
            header.set_link_name_literal(link).unwrap();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
            header.set_size(content.len().try_into().unwrap());
            header.set_cksum();
            builder.append(&header, content).unwrap();
        };
        let records = pax::encode(&[
            ("path", b"d/long"),
            ("SCHILY.xattr.user.x", b"y"),
            ("GNU.sparse.size", b"2000"),
            ("GNU.sparse.map", b"0,3,1000,2"),
        ]);
        add("d", EntryType::Directory, "", b"");
        add("x", EntryType::XHeader, "", &records);
        add("x", EntryType::Regular, "", b"01234");
        add("d/l", EntryType::Symlink, "/d", b"");
        add("d/l/h", EntryType::Link, "d/long", b"");
        add("n", EntryType::GNULongName, "", &b"d/name".repeat(30));
        add("n", EntryType::Char, "", b"");
        add("d/.wh.x", EntryType::Regular, "", b"");
        add("d/.wh..wh..opq", EntryType::Regular, "", b"");
        builder.into_inner().unwrap()
    }

    fn apply(bytes: &[u8], tree: Tree<'_>) -> Result<Unpacked, Fault> {
        let capture = Capture::new(bytes, tempfile::tempfile().unwrap());
        entry::apply_all(&mut Archive::new(capture), tree)
    }

    /// Tools that write archives by hand leave fields empty that are 0; Go's reader takes that, so do its users.
    #[test]
    fn an_empty_number_is_zero() {
        let site = tempfile::tempdir().unwrap();
        let trash = Trash::open_for_test(site.path().join("trash"));
        let mut header = Header::new_ustar();
        header.set_path("file").unwrap();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o640);
        let fields = header.as_old_mut();
        fields.uid = [0; 8];
        fields.gid = [b' '; 8];
        fields.mtime = [0; 12];
        fields.size = [0; 12];
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(3 * 512, 0);
        let root = site.path().join("layer");
        fs::create_dir(&root).unwrap();
        let tree = Tree::new(File::open(&root).unwrap().into(), &trash);
        apply(&bytes, tree).unwrap();
        let file = fs::metadata(root.join("file")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.len()), (0o640, 0));
        assert_eq!((file.uid(), file.gid(), file.mtime()), (0, 0, 0));
    }

    /// Changes the archive at random, keeping each header's checksum right, so that the reader gets
    /// past it: whatever comes, nothing panics and nothing appears beside the layer.
    #[test]
    fn no_archive_breaks_the_reader_or_the_tree() {
        const ROUNDS: usize = 400;
        let site = tempfile::tempdir().unwrap();
        let trash = Trash::open_for_test(site.path().join("trash"));
        let good = archive();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % u64::try_from(below).unwrap()).unwrap()
        };
        let mut done = 0;
        for _ in 0..ROUNDS {
            let mut bytes = good.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = match random(4) {
                    0 => b"/.07w\0\xff"[random(7)],
                    _ => u8::try_from(random(256)).unwrap(),
                };
            }
            for block in bytes
                .chunks_mut(512)
                .filter(|block| block[257..262] == *b"ustar")
            {
                let mut header = Header::from_byte_slice(block).clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
            let root = site.path().join("layer");
            fs::create_dir(&root).unwrap();
            let tree = Tree::new(File::open(&root).unwrap().into(), &trash);
            done += usize::from(apply(&bytes, tree).is_ok());
            fs::remove_dir_all(&root).unwrap();
            let beside = fs::read_dir(site.path()).unwrap().count();
            assert_eq!(beside, 1, "something appeared beside the layer");
        }
        assert!(
            (ROUNDS / 10..ROUNDS).contains(&done),
            "{done} of {ROUNDS} archives were taken"
        );
    }
}
