//! /sys/fs/cgroup as the container sees it. On v1 a tmpfs with one directory a hierarchy, which shows the container's own
//! cgroup; on v2 the hierarchy itself.

use std::os::fd::{AsFd, OwnedFd};

use corten_proto::shim::{Mount, Plan, namespace::From};
use corten_sys::{
    cgroup::V1,
    mount::{self, ATTR_RDONLY},
    root::Root,
};
use nix::mount::MsFlags;
use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};

use super::{DIRECTORY, attribute_bits, context, place};
use crate::{
    container::group::Group,
    failure::{Doing, Result},
};

/// A copy of the host's mount is its peer: without it, what a privileged container mounts there is mounted on the host.
const MS_SLAVE: u64 = MsFlags::MS_SLAVE.bits();

#[derive(Debug)]
pub(super) enum View {
    V1(Vec<Hierarchy>),
    /// A new instance, which shows what the container's cgroup namespace does.
    V2,
    /// The host's own mount: a new instance made outside of a cgroup namespace would change its options.
    V2OfHost(OwnedFd),
}

#[derive(Debug)]
pub(super) struct Hierarchy {
    /// "cpu,cpuacct".
    name: String,
    tree: OwnedFd,
}

pub(super) fn open(plan: &Plan, group: &Group) -> Result<View> {
    let hierarchies = &group.hierarchies;
    let v2 = hierarchies
        .v2
        .as_deref()
        .filter(|_| hierarchies.is_unified());
    let Some(mount) = v2 else {
        let open = |v1: &V1| {
            let path = v1.mount.join(group.path.trim_start_matches('/'));
            let tree = mount::clone_tree(&path, false).doing("open_tree", path.display())?;
            Ok(Hierarchy {
                name: v1.controllers.join(",").replace("name=", ""),
                tree,
            })
        };
        return hierarchies
            .v1
            .iter()
            .map(open)
            .collect::<Result<_>>()
            .map(View::V1);
    };
    let namespace = plan
        .namespaces
        .as_ref()
        .and_then(|namespaces| namespaces.cgroup.as_ref()?.from.as_ref());
    match namespace {
        Some(From::New(_)) => Ok(View::V2),
        _ => mount::clone_tree(mount, false)
            .doing("open_tree", mount.display())
            .map(View::V2OfHost),
    }
}

impl View {
    pub(super) fn attach(self, root: &Root, mount: &Mount, label: &str) -> Result<()> {
        let bits = attribute_bits(mount.attributes);
        match self {
            Self::V1(hierarchies) => attach_v1(root, &hierarchies, bits, &mount.destination, label),
            Self::V2 => {
                let fd = mount::new_filesystem("cgroup2", &[("source", Some("cgroup"))], bits)
                    .doing("mount", "cgroup2")?;
                place::attach(root, fd.as_fd(), &mount.destination, true, "cgroup2")
            }
            Self::V2OfHost(fd) => {
                mount::set_attributes(fd.as_fd(), bits, MS_SLAVE, false)
                    .doing("set attributes", "of cgroup2")?;
                place::attach(root, fd.as_fd(), &mount.destination, true, "cgroup2")
            }
        }
    }
}

fn attach_v1(
    root: &Root,
    hierarchies: &[Hierarchy],
    bits: u64,
    destination: &str,
    label: &str,
) -> Result<()> {
    let options = [
        ("mode", Some("755")),
        ("size", Some("64k")),
        ("source", Some("tmpfs")),
    ];
    let options: Vec<_> = options.into_iter().chain(context::option(label)).collect();
    let tmpfs = mount::new_filesystem("tmpfs", &options, bits & !ATTR_RDONLY)
        .doing("mount", "tmpfs for cgroups")?;
    place::attach(root, tmpfs.as_fd(), destination, true, "tmpfs for cgroups")?;
    for Hierarchy { name, tree } in hierarchies {
        let subject = || format!("{destination}/{name}");
        mkdirat(&tmpfs, name, DIRECTORY).doing("make directory", subject())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = openat(&tmpfs, name, flags, Mode::empty()).doing("open", subject())?;
        mount::set_attributes(tree.as_fd(), bits, MS_SLAVE, false)
            .doing("set attributes", subject())?;
        mount::attach(tree.as_fd(), place.as_fd()).doing("attach mount", subject())?;
        for controller in name.split(',').filter(|controller| controller != name) {
            symlinkat(name, &tmpfs, controller)
                .doing("make symlink", format!("{destination}/{controller}"))?;
        }
    }
    if bits & ATTR_RDONLY != 0 {
        mount::set_attributes(tmpfs.as_fd(), ATTR_RDONLY, 0, false)
            .doing("make read-only", destination)?;
    }
    Ok(())
}
