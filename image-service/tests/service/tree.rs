//! Layers as tar bytes, honest and otherwise.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

pub(crate) struct Tar(Builder<Vec<u8>>);

/// How a layer travels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pack {
    Plain,
    Gzip,
    Zstd,
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(name, EntryType::Directory, b"", |header| {
            header.set_mode(0o755)
        })
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, EntryType::Regular, content, |_| {})
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.link(name, target, EntryType::Symlink)
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.link(name, target, EntryType::Link)
    }

    fn link(self, name: &str, target: &str, kind: EntryType) -> Self {
        self.entry(name, kind, b"", |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    pub(crate) fn device(self, name: &str, kind: EntryType, major: u32, minor: u32) -> Self {
        self.entry(name, kind, b"", |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    }

    /// Any entry; the name is written as it is, which the tar crate would refuse.
    pub(crate) fn entry(
        mut self,
        name: &str,
        kind: EntryType,
        content: &[u8],
        edit: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len().try_into().unwrap());
        edit(&mut header);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    /// PAX records for the entry that follows.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let records = records.iter().map(|(key, value)| (*key, *value));
        self.0.append_pax_extensions(records).unwrap();
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn pack(tar: &[u8], pack: Pack) -> Vec<u8> {
    match pack {
        Pack::Plain => tar.to_vec(),
        Pack::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Pack::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}
