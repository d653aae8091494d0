//! What one archive entry does to the tree, whiteouts included.
//!
//! Whiteouts become overlay's own marks at once, so no mount is needed to unpack: `.wh.x` a character
//! device 0/0 named `x`, `.wh..wh..opq` the attribute `trusted.overlay.opaque`.
//!
//! Rules: OCI image-spec v1.1, layer.md, "Representing Changes", "Whiteouts"; kernel,
//! Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".

use std::io::{self, Read};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::archive::{Archive, Kind, Member};
use super::name::Name;
use super::sparse::Map;
use super::tree::{Attributes, Tree};
use super::{Fault, Unpacked};
use crate::tar_split::Capture;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";
const COPY: usize = 128 << 10;
/// Most memory for names of directories until the last entry: a million of the usual length. Unit: bytes.
const MAX_KEPT: usize = 64 << 20;

const TOO_MUCH: &str = "the names of directories up to this one take more than 64 MiB";

pub(super) fn apply_all(
    archive: &mut Archive<Capture<impl Read>>,
    mut tree: Tree<'_>,
) -> Result<Unpacked, Fault> {
    let mut buffer = vec![0; COPY];
    while let Some(member) = archive.next()? {
        apply(archive, &mut tree, &member, &mut buffer)
            .map_err(|refusal| refusal.into_fault(member.name.clone()))?;
        if tree.kept() > MAX_KEPT {
            return Err(Refusal::Because(TOO_MUCH).into_fault(member.name));
        }
        if let Some(path) = tree.take_superseded() {
            archive.source_mut().superseded(&path);
        }
    }
    tree.finish().map_err(|error| Fault::Entry {
        name: b"/".to_vec(),
        reason: "its directories' times cannot be set".to_owned(),
        source: Some(error.into()),
    })
}

/// What an entry's name asks for.
pub(crate) enum Change {
    /// aufs kept its own accounts in layers; they mean nothing to others.
    Nothing,
    /// What the layers below have by this name is hidden.
    Whiteout(Name),
    /// All that the layers below have in this directory is hidden.
    Opaque(Vec<u8>),
    Entry(Name),
}

/// # Errors
/// A name that no entry may have.
pub(crate) fn change_of(member: &Member) -> Result<Change, &'static str> {
    let name = Name::parse(&member.name)?;
    if name.last == OPAQUE {
        return Ok(Change::Opaque(name.parent));
    }
    if name.last.starts_with(AUFS) {
        return Ok(Change::Nothing);
    }
    match name.last.strip_prefix(WHITEOUT) {
        None => Ok(Change::Entry(name)),
        Some(b"" | b"." | b"..") => Err("a whiteout of no file"),
        Some(hidden) => Ok(Change::Whiteout(Name {
            last: hidden.to_vec(),
            parent: name.parent,
        })),
    }
}

/// Why an entry is not applied; [`apply_all`] adds its name.
enum Refusal {
    Because(&'static str),
    Os(&'static str, Errno),
    Fault(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Refusal {
    fn into_fault(self, name: Vec<u8>) -> Fault {
        let (reason, source) = match self {
            Self::Fault(fault) => return fault,
            Self::Because(reason) => (reason, None),
            Self::Os(_, Errno::LOOP | Errno::NOTDIR) => {
                ("the way to it is no directory of this layer", None)
            }
            Self::Os("find", Errno::NOENT) => ("what it links to is not in this layer", None),
            Self::Os(op, errno) => {
                let source = io::Error::from(errno);
                return Fault::Entry {
                    name,
                    reason: format!("{op}: {source}"),
                    source: Some(source),
                };
            }
        };
        Fault::Entry {
            name,
            reason: reason.to_owned(),
            source,
        }
    }
}

/// Names the step that failed.
trait Step<T> {
    fn step(self, op: &'static str) -> Result<T, Refusal>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, op: &'static str) -> Result<T, Refusal> {
        self.map_err(|errno| Refusal::Os(op, errno))
    }
}

fn apply(
    archive: &mut Archive<Capture<impl Read>>,
    tree: &mut Tree<'_>,
    member: &Member,
    buffer: &mut [u8],
) -> Result<(), Refusal> {
    let name = match change_of(member).map_err(Refusal::Because)? {
        Change::Nothing => return Ok(()),
        Change::Opaque(directory) => return tree.make_opaque(&directory).step("mark opaque"),
        Change::Whiteout(hidden) => return tree.whiteout(&hidden).step("mknod"),
        Change::Entry(name) => name,
    };
    let attributes = attributes(member)?;
    if name.is_root() {
        return match member.kind {
            Kind::Directory => tree.set_root(&attributes).step("set"),
            _ => Err(Refusal::Because("the layer's root must be a directory")),
        };
    }
    match &member.kind {
        Kind::Directory => tree.directory(&name, &attributes).step("mkdir"),
        Kind::File { sparse } => file(archive, tree, &name, &attributes, sparse.as_ref(), buffer),
        Kind::Symlink { target } => tree.symlink(&name, target, &attributes).step("symlink"),
        Kind::Hardlink { target } => {
            let target = Name::parse(target)
                .map_err(|_| Refusal::Because("its hard link leads out of the layer"))?;
            let source = tree.find(&target).step("find")?;
            tree.hardlink(&name, source, &target.last).step("link")
        }
        Kind::Fifo => node(tree, &name, FileType::Fifo, (0, 0), &attributes),
        Kind::Character { major, minor } => {
            let device = (*major, *minor);
            node(tree, &name, FileType::CharacterDevice, device, &attributes)
        }
        Kind::Block { major, minor } => {
            let device = (*major, *minor);
            node(tree, &name, FileType::BlockDevice, device, &attributes)
        }
    }
}

fn node(
    tree: &mut Tree<'_>,
    name: &Name,
    kind: FileType,
    device: (u32, u32),
    attributes: &Attributes<'_>,
) -> Result<(), Refusal> {
    tree.node(name, kind, device, attributes).step("mknod")
}

fn file(
    archive: &mut Archive<Capture<impl Read>>,
    tree: &mut Tree<'_>,
    name: &Name,
    attributes: &Attributes<'_>,
    sparse: Option<&Map>,
    buffer: &mut [u8],
) -> Result<(), Refusal> {
    let file = tree.create(name).step("create")?;
    archive.source_mut().begin_file();
    let mut at = 0;
    let mut stored = 0;
    let mut fragments = sparse.map(|map| map.fragments.iter());
    loop {
        // A plain file is one fragment without an end.
        let mut left = match &mut fragments {
            None => u64::MAX,
            Some(fragments) => match fragments.next() {
                None => break,
                Some((offset, length)) => {
                    at = *offset;
                    *length
                }
            },
        };
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let read = archive.read(&mut buffer[..want])?;
            if read == 0 {
                break;
            }
            Tree::write_at(&file, &buffer[..read], at).step("write")?;
            let read = u64::try_from(read).unwrap_or(0);
            at += read;
            left -= read;
            stored += read;
        }
        if fragments.is_none() {
            break;
        }
    }
    let whole = [(0, stored)];
    let fragments = sparse.map_or(&whole[..], |map| &map.fragments);
    archive.source_mut().end_file(&name.path(), fragments);
    if let Some(map) = sparse {
        rustix::fs::ftruncate(&file, map.real_size).step("truncate")?;
    }
    tree.close(&file, stored, attributes).step("set")
}

/// Labels (security.selinux, security.ima, ...) are this host's business, not the image's.
pub(crate) fn is_kept(xattr: &[u8]) -> bool {
    xattr.starts_with(b"user.")
        || xattr == b"security.capability"
        || xattr.starts_with(b"system.posix_acl_")
}

fn attributes(member: &Member) -> Result<Attributes<'_>, Refusal> {
    let mut xattrs = Vec::new();
    for (name, value) in &member.xattrs {
        // Overlay's own marks decide what a mount shows: an archive may not speak for the kernel.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            return Err(Refusal::Because(
                "it sets an attribute that belongs to overlayfs",
            ));
        }
        if is_kept(name) {
            xattrs.push((&name[..], &value[..]));
        }
    }
    Ok(Attributes {
        mode: member.mode,
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        xattrs,
    })
}
