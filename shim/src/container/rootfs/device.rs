//! Device nodes: those that every container has, and those of the plan.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use corten_proto::shim::{Device, DeviceNode, FailureKind, Identity};
use corten_sys::{
    cgroup::{DeviceKind, DeviceRule},
    root::Root,
};
use rustix::{
    fs::{
        AtFlags, Dev, FileType, Gid, Mode, Stat, Uid, chownat, major, makedev, minor, mknodat,
        statat, symlinkat, unlinkat,
    },
    io::Errno,
};

use super::{DIRECTORY, Ids, place};
use crate::failure::{Doing, Result, failure, invalid};

/// Documentation/admin-guide/devices.txt.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Where the kernel has it, and then /dev/core leads to it.
const CORE: &str = "/proc/kcore";
/// Below /dev, of the host alone: its terminals and shared memory, and what points into them.
const OF_THE_HOST: [&str; 8] = [
    "pts",
    "ptmx",
    "shm",
    "fd",
    "mqueue",
    "hugepages",
    "console",
    ".udev",
];
/// A directory of devices has at most so many, in at most so many levels.
const MAX_NODES: usize = 4096;
const MAX_DEPTH: usize = 8;

/// A device of the host.
#[derive(Clone, Debug)]
pub(super) struct Node {
    destination: PathBuf,
    kind: FileType,
    number: Dev,
    mode: Mode,
    owner: (u32, u32),
    permissions: String,
    /// Mode and owner hold for a node that is there, too.
    is_told: bool,
    /// Whether the container's user is to own it, and the user's group.
    is_users: [bool; 2],
    /// See `Device.is_hosts`.
    is_hosts: bool,
}

impl Node {
    /// For a runtime that makes it.
    pub(super) fn describe(&self) -> DeviceNode {
        DeviceNode {
            path: self.destination.display().to_string(),
            r#type: match self.kind {
                FileType::BlockDevice => "b",
                FileType::Fifo => "p",
                _ => "c",
            }
            .into(),
            major: major(self.number),
            minor: minor(self.number),
            mode: self.mode.as_raw_mode(),
            uid: self.owner.0,
            gid: self.owner.1,
            permissions: self.permissions.clone(),
        }
    }
}

/// Whether it is 1:3, whatever its name.
pub(in super::super) fn is_null(stat: &Stat) -> bool {
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    is_device && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
}

/// Looks the plan's devices up on the host. With `ids` of a user namespace the container's own node belongs to the same
/// numbers there, as far as there are such: with the host's it would be nobody's, and closed to all.
pub(super) fn find(devices: &[Device], ids: &Ids) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for device in devices {
        if device.source.is_empty() {
            nodes.push(told(device)?);
            continue;
        }
        let source = Path::new(&device.source);
        let metadata = fs::metadata(source).map_err(|error| {
            failure(
                FailureKind::FailureInvalid,
                "open device",
                &device.source,
                &error,
            )
        })?;
        if metadata.is_dir() {
            let first = nodes.len();
            walk(
                source,
                Path::new(&device.destination),
                &device.permissions,
                MAX_DEPTH,
                &mut nodes,
            );
            for node in &mut nodes[first..] {
                node.is_hosts = device.is_hosts;
            }
        } else {
            let node = node(&metadata, device.destination.as_ref(), &device.permissions);
            let mut node =
                node.ok_or_else(|| invalid("open device", &device.source, "it is not a device"))?;
            if !device.r#type.is_empty() && kind(device)? != node.kind {
                let hint = format!("it is not of type {}", device.r#type);
                return Err(invalid("open device", &device.source, hint));
            }
            node.set_look(device);
            nodes.push(node);
        }
    }
    let named = nodes.iter().filter(|node| !node.is_hosts);
    let named: HashSet<_> = named.map(|node| node.destination.clone()).collect();
    nodes.retain(|node| !node.is_hosts || !named.contains(&node.destination));
    for node in nodes.iter_mut().filter(|node| !node.is_hosts) {
        let (uid, gid) = node.owner;
        node.owner = ids.owner_or_root(uid, gid);
    }
    Ok(nodes)
}

/// A device that needs no node on the host.
fn told(device: &Device) -> Result<Node> {
    let mut node = Node {
        destination: PathBuf::from(&device.destination),
        kind: kind(device)?,
        number: makedev(device.major, device.minor),
        mode: Mode::from_raw_mode(0o666),
        owner: (0, 0),
        permissions: device.permissions.clone(),
        is_told: false,
        is_users: [false; 2],
        is_hosts: false,
    };
    node.set_look(device);
    Ok(node)
}

fn kind(device: &Device) -> Result<FileType> {
    match device.r#type.as_str() {
        "b" => Ok(FileType::BlockDevice),
        "c" => Ok(FileType::CharacterDevice),
        "p" => Ok(FileType::Fifo),
        other => {
            let hint = format!("its type {other:?} is not known");
            Err(invalid("make device", &device.destination, hint))
        }
    }
}

impl Node {
    /// Takes over what the plan says of mode and owner.
    fn set_look(&mut self, device: &Device) {
        self.is_told = device.is_users
            || [device.mode, device.uid, device.gid]
                .iter()
                .any(Option::is_some);
        self.is_users = [device.uid, device.gid].map(|id| device.is_users && id.is_none());
        self.mode = device.mode.map_or(self.mode, Mode::from_raw_mode);
        let (uid, gid) = self.owner;
        self.owner = (device.uid.unwrap_or(uid), device.gid.unwrap_or(gid));
    }
}

/// Every node below a directory; what vanishes meanwhile was not meant.
fn walk(source: &Path, destination: &Path, permissions: &str, depth: usize, nodes: &mut Vec<Node>) {
    for entry in fs::read_dir(source).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let destination = destination.join(&name);
        // `DirEntry::metadata` does not follow symlinks.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let hidden = source == Path::new("/dev") && OF_THE_HOST.iter().any(|host| name == *host);
        if hidden || nodes.len() >= MAX_NODES {
            continue;
        }
        if metadata.is_dir() && depth > 0 {
            walk(&entry.path(), &destination, permissions, depth - 1, nodes);
        } else if let Some(node) = node(&metadata, &destination, permissions) {
            nodes.push(node);
        }
    }
}

fn node(metadata: &fs::Metadata, destination: &Path, permissions: &str) -> Option<Node> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => FileType::CharacterDevice,
        kind if kind.is_block_device() => FileType::BlockDevice,
        _ => return None,
    };
    Some(Node {
        destination: destination.to_owned(),
        kind,
        number: metadata.rdev(),
        mode: Mode::from_raw_mode(metadata.mode() & 0o7777),
        owner: (metadata.uid(), metadata.gid()),
        permissions: permissions.to_owned(),
        is_told: false,
        is_users: [false; 2],
        is_hosts: false,
    })
}

/// Makes the container's user the owner of nodes that are to be the user's.
pub(super) fn give(nodes: &mut [Node], user: &Identity, ids: &Ids) {
    let (uid, gid) = ids.owner_or_root(user.uid, user.gid);
    for node in nodes {
        if node.is_users[0] {
            node.owner.0 = uid;
        }
        if node.is_users[1] {
            node.owner.1 = gid;
        }
    }
}

/// What the nodes need of the devices controller.
pub(super) fn rules(nodes: &[Node]) -> Vec<DeviceRule> {
    let rule = |node: &Node| DeviceRule {
        kind: if node.kind == FileType::BlockDevice {
            DeviceKind::Block
        } else {
            DeviceKind::Char
        },
        major: Some(major(node.number)),
        minor: Some(minor(node.number)),
        permissions: node.permissions.clone(),
    };
    let devices = nodes
        .iter()
        .filter(|node| node.kind != FileType::Fifo && !node.permissions.is_empty());
    devices.map(rule).collect()
}

/// Makes the plan's nodes.
pub(super) fn make(root: &Root, nodes: &[Node]) -> Result<()> {
    let mut parents: HashMap<&Path, OwnedFd> = HashMap::new();
    for node in nodes {
        let subject = || node.destination.display();
        let parent = node.destination.parent().unwrap_or(Path::new("/"));
        if !parents.contains_key(parent) {
            parents.insert(
                parent,
                root.make_dir_all(parent, DIRECTORY)
                    .map_err(|error| place::not_made(&parent.to_string_lossy(), &error))?,
            );
        }
        let name = node
            .destination
            .file_name()
            .ok_or_else(|| invalid("make device", subject(), "has no name"))?;
        let parent = parents[parent].as_fd();
        make_node(parent, name.as_ref(), node).doing("make device", subject())?;
    }
    Ok(())
}

/// Makes a node. One that is the same device stays; whatever else an image has there makes way.
fn make_node(parent: BorrowedFd<'_>, name: &Path, node: &Node) -> Result<(), Errno> {
    match mknodat(parent, name, node.kind, node.mode, node.number) {
        Err(Errno::EXIST) => {
            let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_same =
                (FileType::from_raw_mode(stat.st_mode), stat.st_rdev) == (node.kind, node.number);
            if is_same && !node.is_told {
                return Ok(());
            }
            match unlinkat(parent, name, AtFlags::empty()) {
                // A mount of the plan.
                Err(Errno::BUSY) => return Ok(()),
                result => result?,
            }
            mknodat(parent, name, node.kind, node.mode, node.number)?;
        }
        result => result?,
    }
    match node.owner {
        // A host's own is made by root of the user namespace, where there is one.
        (0, 0) if !node.is_hosts => Ok(()),
        (uid, gid) => chownat(
            parent,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        ),
    }
}

/// Makes the nodes and links that every container has in /dev.
pub(super) fn make_defaults(root: &Root) -> Result<()> {
    let dev = root
        .make_dir_all(Path::new("/dev"), DIRECTORY)
        .doing("make directory", "/dev")?;
    for (name, major, minor) in DEFAULTS {
        let node = Node {
            destination: PathBuf::new(),
            kind: FileType::CharacterDevice,
            number: makedev(major, minor),
            mode: Mode::from_raw_mode(0o666),
            owner: (0, 0),
            permissions: String::new(),
            is_told: false,
            is_users: [false; 2],
            is_hosts: false,
        };
        make_node(dev.as_fd(), name.as_ref(), &node).doing("make device", name)?;
    }
    let core = root.locate(Path::new(CORE)).ok().map(|_| ("core", CORE));
    for (name, target) in LINKS.into_iter().chain(core) {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).doing("make symlink", format!("/dev/{name}")),
        }
    }
    Ok(())
}
