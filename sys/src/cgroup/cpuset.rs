//! cpuset: on v1 a new cgroup has no CPU and no memory node until it is given some, and nobody can enter it.

use std::{fs, io, path::Path};

use super::{Cgroup, Resources, write};

/// Gives every level of `path` what its parent has, where it has nothing.
pub(super) fn fill(mount: &Path, path: &Path) -> io::Result<()> {
    let mut dir = mount.to_owned();
    for level in path.components() {
        let parent = dir.clone();
        dir.push(level);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(dir.join(file))?.trim().is_empty() {
                write(
                    &dir.join(file),
                    fs::read_to_string(parent.join(file))?.trim(),
                )?;
            }
        }
    }
    Ok(())
}

pub(super) fn apply(cgroup: &Cgroup<'_>, resources: &Resources) -> io::Result<()> {
    let Some(dir) = cgroup.v1("cpuset").or_else(|| cgroup.v2()) else {
        return Ok(());
    };
    for (file, value) in [
        ("cpuset.cpus", &resources.cpuset_cpus),
        ("cpuset.mems", &resources.cpuset_mems),
    ] {
        if !value.is_empty() {
            write(&dir.join(file), value)?;
        }
    }
    Ok(())
}
