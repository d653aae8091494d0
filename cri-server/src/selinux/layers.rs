//! The label of layers. What a container maps into its memory is checked by the label that the file has in its layer, not by
//! that of the overlay's mount. It is of no category: every pod may read it.

use std::{fs, path::Path};

use corten_proto::layout;
use rustix::{fs::lgetxattr, io::Errno};

use super::{ATTRIBUTE, is_known, set_label};
use crate::{
    error::{At, Error, Result},
    spec,
};

/// Labels the directories that layers are unpacked in, for what is made there to have it, and all that is there already.
///
/// # Errors
/// A policy without the label, and the file system's.
pub(crate) fn label(root: &Path) -> Result<()> {
    let label = spec::layer_label();
    is_known(&label).map_err(|source| Error::Io {
        doing: format!("find the label {label} in the host's SELinux policy"),
        source,
    })?;
    // The first two are the image service's.
    let dirs = [root.join("staging"), root.join("layers")];
    let dirs = dirs.into_iter();
    dirs.chain([layout::skeleton(root), layout::empty(root)])
        .try_for_each(|dir| label_tree(&dir, &label))
}

/// The root last: where that has the label, all has it.
fn label_tree(root: &Path, label: &str) -> Result<()> {
    if has(root, label) {
        return Ok(());
    }
    let mut directories = vec![root.to_owned()];
    while let Some(dir) = directories.pop() {
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let entry = entry.at("list", &dir)?;
            let path = entry.path();
            set_label(&path, label)?;
            if entry.file_type().at("stat", &path)?.is_dir() {
                directories.push(path);
            }
        }
    }
    set_label(root, label)
}

/// The kernel ends the value with NUL.
fn has(path: &Path, label: &str) -> bool {
    let mut value = vec![0_u8; label.len() + 1];
    let length: Result<usize, Errno> = lgetxattr(path, ATTRIBUTE, &mut value[..]);
    length.is_ok_and(|length| {
        let value = &value[..length];
        value.strip_suffix(&[0]).unwrap_or(value) == label.as_bytes()
    })
}
