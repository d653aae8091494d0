//! Tar, member by member: V7, ustar, GNU and PAX, with every size bounded.
//!
//! The tar crate reads the fields of a header. The walk is ours: the crate reads long names and PAX
//! records of any size into memory, and ignores a PAX size where it gives raw entries.
//!
//! Rule: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

use std::io::{self, Read};

use rustix::fs::Timespec;
use tar::{EntryType, Header};

use super::Fault;
use super::pax::Pax;
use super::sparse::{self, Map};

const BLOCK: usize = 512;
/// PAX records of one entry: names, and extended attributes of at most 64 KiB each.
const MAX_EXTENSION: u64 = 1 << 20;
/// More files than any image has; each costs an inode.
const MAX_MEMBERS: u64 = 20_000_000;

#[derive(Debug)]
pub(crate) struct Archive<R> {
    reader: R,
    /// Of the current member: data not read yet, and the bytes that fill its last block.
    left: u64,
    padding: u64,
    members: u64,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timespec,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    File { sparse: Option<Map> },
    Directory,
    Symlink { target: Vec<u8> },
    Hardlink { target: Vec<u8> },
    Fifo,
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
}

/// What headers before a member's own say about it.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Pax,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            left: 0,
            padding: 0,
            members: 0,
        }
    }

    /// Skips what is left of the member before.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Fault> {
        let mut extensions = Extensions::default();
        loop {
            self.finish_member()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header.entry_type() {
                EntryType::GNULongName => extensions.long_name = Some(self.long_name(&header)?),
                EntryType::GNULongLink => extensions.long_link = Some(self.long_name(&header)?),
                EntryType::XHeader => extensions.pax = Pax::parse(&self.extension(&header)?)?,
                // Go's reader, hence containerd, gives them no effect either.
                EntryType::XGlobalHeader => drop(self.extension(&header)?),
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    /// Unit: bytes of the current member's data not read yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    pub(crate) fn source(&self) -> &R {
        &self.reader
    }

    /// Behind the end mark.
    pub(crate) fn into_source(self) -> R {
        self.reader
    }

    pub(super) fn source_mut(&mut self) -> &mut R {
        &mut self.reader
    }

    /// Reads the current member's data.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX);
        let want = want.min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let read = self
            .reader
            .read(&mut buffer[..want])
            .map_err(Fault::Stream)?;
        if read == 0 {
            return Err(TRUNCATED);
        }
        self.left -= u64::try_from(read).unwrap_or(0);
        Ok(read)
    }

    fn finish_member(&mut self) -> Result<(), Fault> {
        if self.skip(self.left)? != self.left {
            return Err(TRUNCATED);
        }
        self.left = 0;
        // umoci ends archives without it.
        self.skip(self.padding)?;
        self.padding = 0;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<u64, Fault> {
        let skipped = io::copy(&mut self.reader.by_ref().take(bytes), &mut io::sink());
        skipped.map_err(Fault::Stream)
    }

    /// `None` at the end: two blocks of zeros, or simply no more bytes.
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        let Some(header) = self.block()? else {
            return Ok(None);
        };
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return match self.block()? {
                Some(second) if second.as_bytes().iter().any(|byte| *byte != 0) => {
                    Err(Fault::Archive("there is data after the end mark"))
                }
                _ => Ok(None),
            };
        }
        if !has_valid_checksum(&header) {
            return Err(Fault::Archive(
                "it is no tar archive: a header's checksum is wrong",
            ));
        }
        self.members += 1;
        if self.members > MAX_MEMBERS {
            return Err(Fault::Archive("it has more than 20 million entries"));
        }
        Ok(Some(header))
    }

    fn block(&mut self) -> Result<Option<Header>, Fault> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TRUNCATED),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Stream(error)),
            }
        }
        Ok(Some(header))
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let size = header.entry_size().map_err(|_| BAD_NUMBER)?;
        if size > MAX_EXTENSION {
            return Err(Fault::Archive("an extended header is larger than 1 MiB"));
        }
        self.begin_data(size)?;
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(bytes),
                read => bytes.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let mut name = self.extension(header)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn begin_data(&mut self, size: u64) -> Result<(), Fault> {
        if i64::try_from(size).is_err() {
            return Err(BAD_NUMBER);
        }
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member, Fault> {
        let pax = &extensions.pax;
        let name = pax
            .get("GNU.sparse.name")
            .or_else(|| pax.get("path"))
            .map(<[u8]>::to_vec)
            .or(extensions.long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax
            .get("linkpath")
            .map(<[u8]>::to_vec)
            .or(extensions.long_link)
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let refuse = |reason: &str| Fault::Entry {
            name: name.clone(),
            reason: reason.to_owned(),
            source: None,
        };
        let target = || {
            link.clone()
                .ok_or_else(|| refuse("a link without a target"))
        };
        let kind = match header.entry_type() {
            // V7 archives mark directories by the name alone.
            EntryType::Regular if name.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => self.file(header, pax)?,
            EntryType::GNUSparse => self.gnu_sparse(header)?,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink { target: target()? },
            EntryType::Link => Kind::Hardlink { target: target()? },
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => {
                let (major, minor) = device(header)?;
                Kind::Character { major, minor }
            }
            EntryType::Block => {
                let (major, minor) = device(header)?;
                Kind::Block { major, minor }
            }
            other => {
                let flag = char::from(other.as_byte());
                return Err(refuse(&format!("entries of type {flag:?} are unknown")));
            }
        };
        let fields = header.as_old();
        let id = |key, field: &[u8], value: io::Result<u64>| {
            let id = match pax.number(key)? {
                Some(id) => id,
                None => number(field, value)?,
            };
            // The last id is the kernel's "leave as it is".
            match u32::try_from(id) {
                Ok(id) if id != u32::MAX => Ok(id),
                _ => Err(refuse("the owner is no valid id")),
            }
        };
        Ok(Member {
            uid: id("uid", &fields.uid, header.uid())?,
            gid: id("gid", &fields.gid, header.gid())?,
            mode: number(&fields.mode, header.mode())? & 0o7777,
            mtime: match pax.time("mtime")? {
                Some(mtime) => mtime,
                None => Timespec {
                    tv_sec: number(&fields.mtime, header.mtime())?.cast_signed(),
                    tv_nsec: 0,
                },
            },
            xattrs: pax.xattrs(),
            name,
            kind,
        })
    }

    fn file(&mut self, header: &Header, pax: &Pax) -> Result<Kind, Fault> {
        let size = match pax.number("size")? {
            Some(size) => size,
            None => number(&header.as_old().size, header.entry_size())?,
        };
        self.begin_data(size)?;
        let sparse = sparse::from_pax(pax, &mut self.left, &mut self.reader)?;
        Ok(Kind::File { sparse })
    }

    fn gnu_sparse(&mut self, header: &Header) -> Result<Kind, Fault> {
        let size = header.entry_size().map_err(|_| BAD_NUMBER)?;
        let gnu = header.as_gnu().ok_or(BAD_NUMBER)?;
        let map = sparse::from_gnu(gnu, size, &mut self.reader)?;
        self.begin_data(size)?;
        Ok(Kind::File { sparse: Some(map) })
    }
}

const TRUNCATED: Fault = Fault::Archive("the archive ends in the middle of an entry");
const BAD_NUMBER: Fault = Fault::Archive("a number in a header is broken");

/// The number in `field`, of which the tar crate made `value`. Hand-made archives leave a field empty where it is 0.
fn number<T: Default>(field: &[u8], value: io::Result<T>) -> Result<T, Fault> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    value.map_err(|_| BAD_NUMBER)
}

fn device(header: &Header) -> Result<(u32, u32), Fault> {
    let number = |field: io::Result<Option<u32>>| field.ok().flatten().ok_or(BAD_NUMBER);
    let (major, minor) = (
        number(header.device_major())?,
        number(header.device_minor())?,
    );
    // The kernel would cut them off: include/linux/kdev_t.h.
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(Fault::Archive(
            "a device has a number that Linux does not have",
        ));
    }
    Ok((major, minor))
}

/// Old tars summed signed bytes.
fn has_valid_checksum(header: &Header) -> bool {
    let Ok(want) = header.cksum() else {
        return false;
    };
    let field = 148..156;
    let bytes = header.as_bytes().iter().enumerate();
    let bytes = bytes.map(|(at, byte)| if field.contains(&at) { b' ' } else { *byte });
    let unsigned: u32 = bytes.clone().map(u32::from).sum();
    let signed: i32 = bytes.map(|byte| i32::from(byte.cast_signed())).sum();
    want == unsigned || i64::from(want) == i64::from(signed)
}
