//! Tar, member by member: V7, ustar, GNU and PAX, with every size bounded.
//!
//! Not by the tar crate, which reads long names and PAX records of any size into memory, ignores a PAX size where it gives raw
//! entries, and takes less than other readers do.
//!
//! Rule: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

use std::io::{self, Read};

use rustix::fs::Timespec;
use tar::Header;

use super::Fault;
use super::header::{self, Fields};
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
    /// The name of the current member.
    last: Option<Vec<u8>>,
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
            last: None,
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
            let fields = Fields::of(&header);
            match fields.kind() {
                b'L' => extensions.long_name = Some(self.long_name(&fields)?),
                b'K' => extensions.long_link = Some(self.long_name(&fields)?),
                // Solaris' tar had its own letter for the same.
                b'x' | b'X' => {
                    let records = self.extension(&fields)?;
                    let pax = Pax::parse(&records);
                    extensions.pax = pax.map_err(|fault| fault.of(&fields.name()))?;
                }
                // Go's reader, hence containerd, gives them no effect either.
                b'g' => drop(self.extension(&fields)?),
                _ => {
                    let name = extensions.name(&fields);
                    let member = self.member(&fields, &name, extensions);
                    let member = member.map_err(|fault| fault.of(&name))?;
                    self.last = Some(name);
                    return Ok(Some(member));
                }
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
        if !Fields::of(&header).has_valid_checksum() {
            return Err(match &self.last {
                None => Fault::Archive("it is no tar archive: its first block is no header"),
                Some(name) => Fault::At {
                    name: name.clone(),
                    reason: "what follows it in the archive is no header",
                },
            });
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

    fn extension(&mut self, fields: &Fields<'_>) -> Result<Vec<u8>, Fault> {
        let size = size_of(fields).map_err(|fault| fault.of(&fields.name()))?;
        if size > MAX_EXTENSION {
            return Err(Fault::Archive("an extended header is larger than 1 MiB"));
        }
        self.begin_data(size);
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(bytes),
                read => bytes.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn long_name(&mut self, fields: &Fields<'_>) -> Result<Vec<u8>, Fault> {
        let name = self.extension(fields)?;
        Ok(header::text(&name).to_vec())
    }

    fn begin_data(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn member(
        &mut self,
        fields: &Fields<'_>,
        name: &[u8],
        extensions: Extensions,
    ) -> Result<Member, Fault> {
        let pax = &extensions.pax;
        // As Go has it: GNU's own header counts more.
        let link = extensions
            .long_link
            .or_else(|| pax.get("linkpath").map(<[u8]>::to_vec))
            .or_else(|| fields.link());
        let target = || {
            link.clone()
                .ok_or(Fault::Archive("a link without a target"))
        };
        let kind = match fields.kind() {
            0 | b'0' if name.ends_with(b"/") => self.file_or_directory(fields, pax)?,
            0 | b'0' | b'7' => self.file(fields, pax)?,
            b'S' => self.gnu_sparse(fields)?,
            b'5' => Kind::Directory,
            b'2' => Kind::Symlink { target: target()? },
            b'1' => Kind::Hardlink { target: target()? },
            b'6' => Kind::Fifo,
            b'3' => {
                let (major, minor) = device(fields)?;
                Kind::Character { major, minor }
            }
            b'4' => {
                let (major, minor) = device(fields)?;
                Kind::Block { major, minor }
            }
            other => {
                return Err(Fault::Entry {
                    name: name.to_vec(),
                    reason: format!("entries of type {:?} are unknown", char::from(other)),
                    source: None,
                });
            }
        };
        let id = |key, field: Option<i64>| {
            let id = match pax.number(key)? {
                Some(id) => Some(id),
                None => u64::try_from(field.ok_or(BAD_NUMBER)?).ok(),
            };
            // The last id is the kernel's "leave as it is".
            match id.map(u32::try_from) {
                Some(Ok(id)) if id != u32::MAX => Ok(id),
                _ => Err(Fault::Archive("the owner is no valid id")),
            }
        };
        let mode = fields.mode().ok_or(BAD_NUMBER)? & 0o7777;
        Ok(Member {
            uid: id("uid", fields.uid())?,
            gid: id("gid", fields.gid())?,
            mode: u32::try_from(mode).unwrap_or(0),
            mtime: match pax.time("mtime")? {
                Some(mtime) => mtime,
                None => Timespec {
                    tv_sec: fields.mtime().ok_or(BAD_NUMBER)?,
                    tv_nsec: 0,
                },
            },
            xattrs: pax.xattrs(),
            name: match pax.get("GNU.sparse.name") {
                Some(real) if matches!(kind, Kind::File { sparse: Some(_) }) => real.to_vec(),
                _ => name.to_vec(),
            },
            kind,
        })
    }

    /// A name with a slash at its end, of a type that is a file's. V7 archives mark directories so, and have no data for
    /// them; what they have nevertheless is passed over. From newer tools it is a directory, too, unless it has data: that
    /// is a file for Go's reader, and so for all who run images by it.
    fn file_or_directory(&mut self, fields: &Fields<'_>, pax: &Pax) -> Result<Kind, Fault> {
        let size = match pax.number("size")? {
            Some(size) => size,
            None => size_of(fields)?,
        };
        if size > 0 && fields.kind() == b'0' {
            return self.file(fields, pax);
        }
        self.begin_data(checked(size)?);
        Ok(Kind::Directory)
    }

    fn file(&mut self, fields: &Fields<'_>, pax: &Pax) -> Result<Kind, Fault> {
        let size = match pax.number("size")? {
            Some(size) => checked(size)?,
            None => size_of(fields)?,
        };
        self.begin_data(size);
        let sparse = sparse::from_pax(pax, &mut self.left, &mut self.reader)?;
        Ok(Kind::File { sparse })
    }

    fn gnu_sparse(&mut self, fields: &Fields<'_>) -> Result<Kind, Fault> {
        let size = size_of(fields)?;
        let map = sparse::from_gnu(fields, size, &mut self.reader)?;
        self.begin_data(size);
        Ok(Kind::File { sparse: Some(map) })
    }
}

impl Extensions {
    /// As Go has it: GNU's own header counts more than PAX records, these more than the header.
    fn name(&self, fields: &Fields<'_>) -> Vec<u8> {
        match (&self.long_name, self.pax.get("path")) {
            (Some(name), _) if !name.is_empty() => name.clone(),
            (_, Some(path)) => path.to_vec(),
            _ => fields.name(),
        }
    }
}

const TRUNCATED: Fault = Fault::Archive("the archive ends in the middle of an entry");
const BAD_NUMBER: Fault = Fault::Archive("a number in a header is broken");

fn size_of(fields: &Fields<'_>) -> Result<u64, Fault> {
    u64::try_from(fields.size().ok_or(BAD_NUMBER)?).map_err(|_| BAD_NUMBER)
}

fn checked(size: u64) -> Result<u64, Fault> {
    match i64::try_from(size) {
        Ok(_) => Ok(size),
        Err(_) => Err(BAD_NUMBER),
    }
}

fn device(fields: &Fields<'_>) -> Result<(u32, u32), Fault> {
    let number = |field: Option<i64>| field.ok_or(BAD_NUMBER);
    let (major, minor) = (number(fields.major())?, number(fields.minor())?);
    // The kernel would cut them off: include/linux/kdev_t.h.
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
        _ => Err(Fault::Archive(
            "a device has a number that Linux does not have",
        )),
    }
}
