//! Volumes that an image declares: directories of the container's own, which begin with what the image has there.

use std::{os::fd::AsFd, path::Path};

use corten_proto::shim::DeclaredVolume;
use corten_sys::{mount, root::Root};
use nix::mount::MsFlags;
use rustix::fs::{AtFlags, FileType, StatxFlags, fstat, statx};

use super::{DIRECTORY, bind::Tree, context, copy_up, place};
use crate::failure::{Doing, Result, invalid};

/// The volume's directory, detached.
pub(super) fn open(volume: &DeclaredVolume) -> Result<Tree> {
    let source = &volume.source;
    let fd = mount::clone_tree(Path::new(source), false).doing("open_tree", source)?;
    mount::set_attributes(fd.as_fd(), 0, MsFlags::MS_PRIVATE.bits(), false)
        .doing("set propagation", source)?;
    Tree::new(source, fd)
}

/// The mounts in which a declared volume may lie: the root, and other such volumes. An image decides where its volumes are,
/// by symlinks too, and must not cover /proc or somebody's volume with them (CVE-2019-16884).
#[derive(Debug)]
pub(super) struct Places {
    mounts: Vec<u64>,
    limits: copy_up::Limits,
}

impl Places {
    pub(super) fn of(root: &Root) -> Result<Self> {
        Ok(Self {
            mounts: vec![mount_id(root, "/")?],
            limits: copy_up::LIMITS,
        })
    }

    /// Copies up, and attaches.
    pub(super) fn attach(
        &mut self,
        root: &Root,
        tree: &Tree,
        destination: &str,
        label: &str,
    ) -> Result<()> {
        let path = Path::new(destination);
        let place = root
            .make_dir_all(path, DIRECTORY)
            .map_err(|error| place::not_made(destination, &error))?;
        let refused = |hint| Err(invalid("mount the image's volume", destination, hint));
        if !self.mounts.contains(&mount_id(&place, destination)?) {
            return refused("it leads into another mount");
        }
        let stat = fstat(&place).doing("stat", destination)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return refused("it is not a directory");
        }
        copy_up::copy(
            place.as_fd(),
            tree.fd.as_fd(),
            &mut self.limits,
            destination,
        )?;
        if !label.is_empty() {
            context::relabel(tree.fd.as_fd(), destination, label)?;
        }
        mount::attach(tree.fd.as_fd(), place.as_fd()).doing("attach mount", destination)?;
        self.mounts.push(mount_id(&tree.fd, destination)?);
        Ok(())
    }
}

fn mount_id(file: impl AsFd, what: &str) -> Result<u64> {
    let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).doing("statx", what)?;
    Ok(stat.stx_mnt_id)
}
