//! File systems of the kernel: proc, sysfs, tmpfs, devpts, mqueue.

use std::{os::fd::AsFd, path::Path};

use corten_proto::shim::{Filesystem, Mount};
use corten_sys::{mount, root::Root};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

use super::{attach_at, attribute_bits};
use crate::failure::{Doing, Result, invalid};

/// Mounts it at the destination.
pub(super) fn attach(root: &Root, mount: &Mount, kind: &Filesystem) -> Result<()> {
    let subject = || format!("{} on {}", kind.r#type, mount.destination);
    if matches!(kind.r#type.as_str(), "proc" | "sysfs") {
        refuse_symlinks(root, &mount.destination)?;
    }
    // What mount tables name it by: programs look for "proc" and "sysfs" there.
    let mut options = options(&kind.options);
    options.push(("source", Some(&kind.r#type)));
    let fd = mount::new_filesystem(&kind.r#type, &options, attribute_bits(mount.attributes))
        .doing("mount", subject())?;
    attach_at(root, fd.as_fd(), &mount.destination, true)
}

/// An image whose /proc is a symlink would have its masked paths somewhere else than the kernel's files.
fn refuse_symlinks(root: &Root, destination: &str) -> Result<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    match openat2(
        root,
        Path::new(destination),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    ) {
        Err(Errno::LOOP) => Err(invalid(
            "mount",
            destination,
            "the image has a symlink there, and it has to be a directory",
        )),
        _ => Ok(()),
    }
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
