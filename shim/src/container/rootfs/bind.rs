//! Bind mounts: volumes and files of the host.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::Path,
};

use corten_proto::shim::{Bind, FailureKind, Mount, Propagation};
use corten_sys::{
    mount::{self, ATTR_RDONLY},
    root::Root,
};
use nix::mount::MsFlags;
use rustix::fs::{AtFlags, FileType, PROC_SUPER_MAGIC, StatxFlags, fstat, fstatfs, statx};

use super::{attribute_bits, bundle, context, place};
use crate::failure::{Doing, Result, failure, invalid, of_mount};

/// A detached mount that is to be attached in the container.
#[derive(Debug)]
pub(super) struct Tree {
    source: String,
    pub(super) fd: OwnedFd,
    is_directory: bool,
}

/// Opens the source, with its files relabelled where that is asked for, and gives the copy its ids, flags and propagation.
pub(super) fn open(
    bind: &Bind,
    mount: &Mount,
    user_namespace: Option<BorrowedFd<'_>>,
    label: &str,
    warnings: &mut Vec<String>,
) -> Result<Tree> {
    let path = Path::new(&bind.source);
    let fd = clone_or_create(path, bind, warnings).map_err(|error| {
        let subject = format!("{} on {}", bind.source, mount.destination);
        let kind = FailureKind::FailureInvalid;
        let mut failure = failure(kind, "open mount source", subject, &error);
        if error.kind() == io::ErrorKind::AlreadyExists {
            failure.hint = "a symlink on the way leads to nothing".into();
        }
        failure
    })?;
    refuse_on_proc(&fd, bind, mount)?;
    if bind.relabel && !label.is_empty() {
        context::relabel(fd.as_fd(), &bind.source, label)?;
    }
    if mount.id_mapped {
        map_ids(&fd, mount, &bind.source, user_namespace)?;
    }
    let subject = || format!("of mount {}", mount.destination);
    let propagation = bind.propagation();
    if propagation != Propagation::Private {
        check_propagation(path, propagation, &mount.destination)
            .map_err(of_mount(mount, "propagation"))?;
    }
    if let Some(flag) = propagation_flag(propagation) {
        mount::set_attributes(fd.as_fd(), 0, flag.bits(), true)
            .doing("set propagation", subject())?;
    }
    let bits = attribute_bits(mount.attributes);
    if bits != 0 {
        mount::set_attributes(fd.as_fd(), bits, 0, false).doing("set attributes", subject())?;
    }
    if bits & ATTR_RDONLY != 0 && bind.recursive_readonly {
        mount::set_attributes(fd.as_fd(), ATTR_RDONLY, 0, true)
            .doing("make read-only recursively", subject())?;
    }
    Tree::new(&bind.source, fd)
}

/// Refuses a source on /proc that is no proc file system: programs take what they find there for the kernel's.
fn refuse_on_proc(tree: &OwnedFd, bind: &Bind, mount: &Mount) -> Result<()> {
    if mount.destination != place::PROC
        || fstatfs(tree).doing("statfs", &bind.source)?.f_type == PROC_SUPER_MAGIC
    {
        return Ok(());
    }
    let subject = format!("{} on {}", bind.source, mount.destination);
    Err(invalid("mount", subject, "it is no proc file system"))
}

fn map_ids(
    tree: &OwnedFd,
    mount: &Mount,
    source: &str,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let subject = || format!("{source} on {}", mount.destination);
    let Some(user_namespace) = user_namespace else {
        let hint = "the container has no user namespace to map them to";
        return Err(invalid("map the ids of", subject(), hint));
    };
    mount::map_ids(tree.as_fd(), user_namespace).map_err(|error| {
        let kind = FailureKind::FailureInvalid;
        let mut failure = failure(kind, "map the ids of", subject(), &error);
        if error.kind() == io::ErrorKind::InvalidInput {
            failure.hint = format!(
                "{} cannot map ids on this kernel, so that a pod with a user namespace cannot have this volume",
                filesystem_name(tree)
            );
        }
        failure
    })
}

/// "nfs", as /proc/self/mountinfo names the file system that a tree is of.
fn filesystem_name(tree: &OwnedFd) -> String {
    let device = statx(tree, "", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .map(|stat| format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let name = device.ok().and_then(|device| {
        let line = table
            .lines()
            .find(|line| line.split(' ').nth(2) == Some(&*device))?;
        line.split(" - ")
            .nth(1)?
            .split(' ')
            .next()
            .map(str::to_owned)
    });
    format!("the file system {}", name.unwrap_or_default())
}

fn clone_or_create(path: &Path, bind: &Bind, warnings: &mut Vec<String>) -> io::Result<OwnedFd> {
    let clone = || mount::clone_tree(path, !bind.non_recursive);
    match clone() {
        Err(error) if error.kind() == io::ErrorKind::NotFound && bind.create_source => {
            DirBuilder::new().recursive(true).mode(0o755).create(path)?;
            warnings.push(format!(
                "source {} of a mount was missing: made as a directory",
                path.display()
            ));
            clone()
        }
        result => result,
    }
}

/// What to change of a copy, which begins as a peer of its source.
fn propagation_flag(propagation: Propagation) -> Option<MsFlags> {
    match propagation {
        Propagation::Private => Some(MsFlags::MS_PRIVATE),
        Propagation::HostToContainer => Some(MsFlags::MS_SLAVE),
        Propagation::Bidirectional => None,
    }
}

/// Refuses what the host's mount cannot give: it would be accepted, and no mount would ever arrive.
fn check_propagation(path: &Path, propagation: Propagation, destination: &str) -> Result<()> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").doing("read", "/proc/self/mountinfo")?;
    let stat = statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .doing("statx", path.display())?;
    let Some((shared, slave)) = sharing(&mounts, stat.stx_mnt_id) else {
        return Ok(());
    };
    let enough = match propagation {
        Propagation::Private => true,
        Propagation::HostToContainer => shared || slave,
        Propagation::Bidirectional => shared,
    };
    if enough {
        return Ok(());
    }
    let hint = "the host's mount that it lies on is private: make it shared (mount --make-rshared) for this propagation";
    Err(invalid(
        "mount",
        format!("{} on {destination}", path.display()),
        hint,
    ))
}

/// Whether mount `id` is shared, and whether it is a slave (proc_pid_mountinfo(5), optional fields).
fn sharing(table: &str, id: u64) -> Option<(bool, bool)> {
    let line = table
        .lines()
        .find(|line| line.split(' ').next().and_then(|field| field.parse().ok()) == Some(id))?;
    let fields: Vec<_> = line
        .split(' ')
        .skip(6)
        .take_while(|field| *field != "-")
        .collect();
    let has = |tag: &str| fields.iter().any(|field| field.starts_with(tag));
    Some((has("shared:"), has("master:")))
}

impl Tree {
    /// `source` is what messages call it.
    pub(super) fn new(source: &str, fd: OwnedFd) -> Result<Self> {
        let stat = fstat(&fd).doing("stat", source)?;
        Ok(Self {
            source: source.to_owned(),
            fd,
            is_directory: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
        })
    }

    /// Attaches it in a bundle.
    pub(super) fn attach_in(&self, place: &Path) -> Result<()> {
        bundle::attach(self.fd.as_fd(), place, self.is_directory)
    }

    /// Refuses a mount that an external runtime would refuse in words of its own.
    pub(super) fn refuse_wrong(&self, root: &Root, destination: &str) -> Result<()> {
        place::refuse_wrong(root, destination, self.is_directory, &self.source)
    }

    pub(super) fn attach(&self, root: &Root, destination: &str) -> Result<()> {
        place::attach(
            root,
            self.fd.as_fd(),
            destination,
            self.is_directory,
            &self.source,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_tell_propagation() {
        let table = "21 1 0:3 / / rw,relatime shared:1 - ext4 /dev/x rw\n\
                     22 21 0:4 / /a rw shared:2 master:1 - tmpfs t rw\n\
                     23 21 0:5 / /b rw - tmpfs shared:9 rw\n";
        let check = |id, want| assert_eq!(sharing(table, id), want, "{id}");
        check(21, Some((true, false)));
        check(22, Some((true, true)));
        check(23, Some((false, false)));
        check(24, None);
    }
}
