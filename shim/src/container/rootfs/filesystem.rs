//! File systems of the kernel: proc, sysfs, tmpfs, devpts, mqueue.

use std::os::fd::AsFd;

use corten_proto::shim::{Filesystem, Mount, Plan, namespace::From};
use corten_sys::{mount, root::Root};
use rustix::fs::{AtFlags, chownat};

use super::{super::ids::Ids, Pids, attribute_bits, context, place};
use crate::failure::{Doing, Result};

/// New ones, whose files are the container's own.
const LABELLED: [&str; 2] = ["tmpfs", "devpts"];

/// Mounts it at the destination.
pub(super) fn attach(
    root: &Root,
    mount: &Mount,
    kind: &Filesystem,
    plan: &Plan,
    pids: Option<Pids<'_>>,
) -> Result<()> {
    let subject = || format!("{} on {}", kind.r#type, mount.destination);
    if matches!(kind.r#type.as_str(), "proc" | "sysfs") {
        place::refuse_symlinks(root, &mount.destination)?;
    }
    // What mount tables name it by: programs look for "proc" and "sysfs" there.
    let mut options = options(&kind.options);
    options.push(("source", Some(&kind.r#type)));
    if LABELLED.contains(&kind.r#type.as_str()) {
        options.extend(context::option(&plan.mount_label));
    }
    let attributes = attribute_bits(mount.attributes);
    let fd = match pids {
        Some(pids) if kind.r#type == "proc" => pids.proc(&options, attributes)?,
        _ => mount::new_filesystem(&kind.r#type, &options, attributes).doing("mount", subject())?,
    };
    // There is one of it in an IPC namespace, whatever options it is asked for with.
    if kind.r#type == "mqueue" && !plan.mount_label.is_empty() && has_own_ipc(plan) {
        context::share_directory(fd.as_fd(), &plan.mount_label).doing("label", subject())?;
    }
    // Its directory belongs to root of the user namespace that it is mounted from, the host's.
    if kind.r#type == "devpts" && plan.user_namespace.is_some() {
        let (uid, gid) = Ids::of(plan).owner(0, 0)?;
        chownat(&fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).doing("chown", subject())?;
    }
    place::attach(root, fd.as_fd(), &mount.destination, true, &kind.r#type)
}

/// Or its pod's.
fn has_own_ipc(plan: &Plan) -> bool {
    let ipc = plan.namespaces.as_ref().and_then(|all| all.ipc.as_ref());
    ipc.is_some_and(|ipc| !matches!(ipc.from, Some(From::Host(_))))
}

/// "mode=755,size=64k,noswap" as keys with values and flags without.
fn options(text: &str) -> Vec<(&str, Option<&str>)> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            part.split_once('=')
                .map_or((part, None), |(key, value)| (key, Some(value)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parted_at_commas_and_the_first_equals_sign() {
        assert_eq!(
            options("mode=755,newinstance,a=b=c"),
            [
                ("mode", Some("755")),
                ("newinstance", None),
                ("a", Some("b=c"))
            ]
        );
        assert_eq!(options(""), []);
    }
}
