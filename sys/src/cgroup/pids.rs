//! pids: processes and threads.

use std::io;

use super::{Cgroup, Resources, write};

pub(super) fn apply(cgroup: &Cgroup<'_>, resources: &Resources) -> io::Result<()> {
    let Some(dir) = cgroup.v1("pids").or_else(|| cgroup.v2()) else {
        return Ok(());
    };
    match resources.pids_limit {
        0 => Ok(()),
        limit @ 1.. => write(&dir.join("pids.max"), &limit.to_string()),
        _ => write(&dir.join("pids.max"), "max"),
    }
}
