//! Image volumes: an image's files, read-only.
//!
//! Each is an overlay of its own. Layers are shared by any number of overlays, and one without an upper directory has
//! nothing to share with another of the same image but its mount, which nobody outside of its container sees.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use corten_proto::shim::{Failure, FailureKind, ImageVolume, Mount};
use corten_sys::{
    mount::{self, ATTR_RDONLY},
    open::openat2,
};
use nix::mount::{MntFlags, umount2};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat};

use super::{attribute_bits, bind::Tree, overlay};
use crate::failure::{Doing, Result, invalid};

/// The whole image, detached, with the ids of the user namespace where there is one.
pub(super) fn open(
    image: &ImageVolume,
    mount: &Mount,
    user_namespace: Option<BorrowedFd<'_>>,
    label: &str,
) -> Result<Tree> {
    let open = || {
        let fd = overlay::open_readonly(&image.lower, user_namespace, label)?;
        let bits = attribute_bits(mount.attributes) | ATTR_RDONLY;
        mount::set_attributes(fd.as_fd(), bits, 0, false)
            .doing("set attributes", format!("of mount {}", mount.destination))?;
        Tree::new("image", fd)
    };
    open().map_err(told)
}

/// The part of an image that `sub_path` names. Only what is attached can be copied on every kernel, so the image is put on
/// `place`, an empty directory at `path`, meanwhile.
///
/// Rule (CRI, `Mount.image_sub_path`): it exists and stays inside. The kernel resolves it, and no symlink leads out.
pub(super) fn narrow(whole: &Tree, sub_path: &str, place: &OwnedFd, path: &Path) -> Result<Tree> {
    let narrow = || {
        mount::attach(whole.fd.as_fd(), place.as_fd()).doing("attach", "the image")?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let found = openat2(
            &whole.fd,
            Path::new(sub_path),
            OFlags::PATH,
            Mode::empty(),
            resolve,
        )
        .doing("open sub path", sub_path)?;
        let stat = fstat(&found).doing("stat", sub_path)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            let hint = "it is neither a directory nor a file";
            return Err(invalid("open sub path", sub_path, hint));
        }
        let part = mount::clone_tree_at(found.as_fd(), false).doing("open_tree", sub_path)?;
        umount2(path, MntFlags::MNT_DETACH).doing("unmount", "the image")?;
        Tree::new(&format!("sub path {sub_path}"), part)
    };
    narrow().map_err(told)
}

/// The kubelet has a word of its own for these.
fn told(failure: Failure) -> Failure {
    Failure {
        kind: FailureKind::FailureImageVolume.into(),
        ..failure
    }
}
