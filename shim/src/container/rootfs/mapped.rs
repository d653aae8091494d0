//! Layers with the ids of a user namespace: detached copies of as few mounts as possible, since most layers lie in one
//! directory.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use corten_sys::mount;
use rustix::fs::{Mode, OFlags, openat};

use crate::failure::{Doing, Result};

/// A copy of the directory `path`, which is a layer or holds some.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) path: PathBuf,
    pub(super) tree: OwnedFd,
}

/// What these layers can be opened in; nothing without a user namespace.
pub(super) fn layers(
    lower: &[String],
    upper: &str,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<Vec<Mapped>> {
    let Some(user_namespace) = user_namespace else {
        return Ok(Vec::new());
    };
    let map = |path: &Path| {
        let tree = mount::clone_tree(path, false)?;
        mount::map_ids(tree.as_fd(), user_namespace)?;
        io::Result::Ok(tree)
    };
    let map = |path: PathBuf| {
        let tree = map(&path).doing("map the ids of", path.display())?;
        Ok(Mapped { path, tree })
    };
    directories(lower, upper).into_iter().map(map).collect()
}

/// The parent that several layers share, or a layer itself. Nothing of them has the upper directory in it, which is not to
/// be mapped.
fn directories(layers: &[String], upper: &str) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = Vec::new();
    for lower in layers.iter().map(Path::new) {
        let parent = lower
            .parent()
            .filter(|parent| !Path::new(upper).starts_with(parent));
        let is_shared = |parent: &&Path| {
            let others = layers.iter().map(|lower| Path::new(lower).parent());
            others
                .filter(|other| *other == Some(*parent))
                .nth(1)
                .is_some()
        };
        let directory = parent.filter(is_shared).unwrap_or(lower);
        if !directories.iter().any(|known| known == directory) {
            directories.push(directory.to_owned());
        }
    }
    directories
}

/// Opens a layer where it is mapped; `None` when nothing is.
pub(super) fn open(mapped: &[Mapped], layer: &str) -> io::Result<Option<OwnedFd>> {
    let found = mapped.iter().find_map(|mapped| {
        let inside = Path::new(layer).strip_prefix(&mapped.path).ok()?;
        Some((mapped, inside))
    });
    let Some((mapped, inside)) = found else {
        return Ok(None);
    };
    let inside = if inside.as_os_str().is_empty() {
        Path::new(".")
    } else {
        inside
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Some(openat(&mapped.tree, inside, flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lower: &[&str], want: &[&str]) {
        let lower: Vec<String> = lower.iter().map(|path| (*path).to_owned()).collect();
        let want: Vec<PathBuf> = want.iter().map(PathBuf::from).collect();
        assert_eq!(directories(&lower, "/r/c/upper"), want);
    }

    #[test]
    fn layers_of_one_directory_are_mapped_at_once() {
        check(
            &["/r/layers/2", "/r/layers/1", "/r/skeleton"],
            &["/r/layers", "/r/skeleton"],
        );
        check(
            &["/r/layers/1", "/r/skeleton"],
            &["/r/layers/1", "/r/skeleton"],
        );
    }

    #[test]
    fn the_writable_layer_is_never_within() {
        check(&["/r/c/a", "/r/c/b"], &["/r/c/a", "/r/c/b"]);
    }
}
