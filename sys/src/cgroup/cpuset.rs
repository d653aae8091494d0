//! cpuset: on v1 a new cgroup has no CPU and no memory node until it is given some, and nobody can enter it.

use std::{fs, io, path::Path};

use super::{Cgroup, Resources, setting::Setting, write};

/// Gives `dir` what its parent has, where it has nothing; and before it the parents that have nothing. The root has all.
pub(super) fn fill(dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        fill_file(dir, file)?;
    }
    Ok(())
}

fn fill_file(dir: &Path, file: &str) -> io::Result<String> {
    let path = dir.join(file);
    let own = fs::read_to_string(&path)?;
    match dir.parent() {
        Some(parent) if own.trim().is_empty() => {
            let inherited = fill_file(parent, file)?;
            write(&path, inherited.trim())?;
            Ok(inherited)
        }
        _ => Ok(own),
    }
}

pub(super) fn settings(cgroup: &Cgroup<'_>, resources: &Resources) -> Vec<Setting> {
    let Some(dir) = cgroup.v1("cpuset").or_else(|| cgroup.v2()) else {
        return Vec::new();
    };
    let values = [
        ("cpuset_cpus", "cpuset.cpus", &resources.cpuset_cpus),
        ("cpuset_mems", "cpuset.mems", &resources.cpuset_mems),
    ];
    let set = values.into_iter().filter(|(.., value)| !value.is_empty());
    set.map(|(field, file, value)| Setting::new(field, dir.join(file), value))
        .collect()
}
