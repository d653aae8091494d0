//! Want of memory: how many processes the kernel has killed for it, and whose limit was at fault.

use std::{fs, io, path::Path};

use super::{Cgroup, keyed, read_if_there};

/// The kernel gives up an allocation of up to 2^3 pages, so that a peak is up to so much below its limit.
const SLACK: u64 = 64 << 10;

/// What was killed for want of memory in a cgroup since it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Oom {
    /// Processes.
    pub kills: u64,
    /// The nearest limit that was reached. `None`: none of a cgroup that we see, so that it was the machine that had no
    /// memory left.
    pub limit: Option<MemoryLimit>,
}

/// A limit that was reached.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryLimit {
    /// The cgroup that has it, as in [`Cgroup::new`].
    pub cgroup: String,
    pub bytes: u64,
}

/// `None` when nothing was killed.
pub(super) fn of(cgroup: &Cgroup<'_>) -> io::Result<Option<Oom>> {
    let kills = match (cgroup.v1("memory"), cgroup.v2()) {
        (Some(dir), _) => counter(&dir.join("memory.oom_control"), "oom_kill")?,
        (None, Some(dir)) => counter(&dir.join("memory.events"), "oom_kill")?,
        (None, None) => 0,
    };
    if kills == 0 {
        return Ok(None);
    }
    let limit = ancestry(&cgroup.path).find_map(|path| {
        let bytes = reached(&Cgroup::new(cgroup.hierarchies, path)).ok()??;
        let cgroup = format!("/{path}");
        Some(MemoryLimit { cgroup, bytes })
    });
    Ok(Some(Oom { kills, limit }))
}

/// The path and its parents but for the root, which has no limit.
fn ancestry(path: &str) -> impl Iterator<Item = &str> {
    let parents = std::iter::successors(Some(path), |path| Some(path.rsplit_once('/')?.0));
    parents.filter(|path| !path.is_empty())
}

/// The cgroup's own limit if something in it needed more.
fn reached(cgroup: &Cgroup<'_>) -> io::Result<Option<u64>> {
    if let Some(dir) = cgroup.v1("memory") {
        // memory.failcnt would say it, but stays 0 on newer kernels.
        for kind in ["memory", "memory.memsw"] {
            let peak = number(&dir.join(format!("{kind}.max_usage_in_bytes")))?;
            let limit = number(&dir.join(format!("{kind}.limit_in_bytes")))?;
            if peak.is_some_and(|peak| Some(peak + SLACK) >= limit) {
                return Ok(limit);
            }
        }
        return Ok(None);
    }
    let Some(dir) = cgroup.v2() else {
        return Ok(None);
    };
    // Without those of the cgroups below it.
    match counter(&dir.join("memory.events.local"), "oom")? {
        0 => Ok(None),
        _ => number(&dir.join("memory.max")),
    }
}

fn counter(path: &Path, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    Ok(keyed(&text, name).unwrap_or_default())
}

fn number(path: &Path) -> io::Result<Option<u64>> {
    Ok(read_if_there(path)?.and_then(|text| text.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_have_the_counter() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(v1, "oom_kill"), Some(3));
        let v2 = "low 0\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(
            (keyed(v2, "oom_kill"), keyed(v2, "oom")),
            (Some(1), Some(2))
        );
    }

    #[test]
    fn the_root_is_not_among_the_parents() {
        let all: Vec<_> = ancestry("kubepods/pod1/c").collect();
        assert_eq!(all, ["kubepods/pod1/c", "kubepods/pod1", "kubepods"]);
    }
}
