//! memory: limits, and how often the kernel killed for want of it.

use std::{fs, io, path::Path};

use super::{Cgroup, Resources, write};

pub(super) fn apply(cgroup: &Cgroup<'_>, resources: &Resources) -> io::Result<()> {
    let (memory, both) = (resources.memory_limit, resources.memory_and_swap_limit);
    if let Some(dir) = cgroup.v1("memory") {
        if memory != 0 {
            write(&dir.join("memory.limit_in_bytes"), &memory.to_string())?;
        }
        let file = dir.join("memory.memsw.limit_in_bytes");
        // Not there where swap is not accounted.
        if both != 0 && file.exists() {
            write(&file, &both.to_string())?;
        }
        return Ok(());
    }
    let Some(dir) = cgroup.v2() else {
        return Ok(());
    };
    if memory != 0 {
        write(&dir.join("memory.max"), &maximum(memory))?;
    }
    let file = dir.join("memory.swap.max");
    if both != 0 && file.exists() {
        // v2 counts swap alone.
        let swap = if both < 0 {
            -1
        } else {
            (both - memory.max(0)).max(0)
        };
        write(&file, &maximum(swap))?;
    }
    Ok(())
}

fn maximum(bytes: i64) -> String {
    if bytes < 0 {
        "max".into()
    } else {
        bytes.to_string()
    }
}

/// `oom_kill` of memory.oom_control (v1) or memory.events (v2).
pub(super) fn oom_kills(cgroup: &Cgroup<'_>) -> io::Result<u64> {
    match (cgroup.v1("memory"), cgroup.v2()) {
        (Some(dir), _) => counter(&dir.join("memory.oom_control")),
        (None, Some(dir)) => counter(&dir.join("memory.events")),
        (None, None) => Ok(0),
    }
}

fn counter(path: &Path) -> io::Result<u64> {
    Ok(parse(&fs::read_to_string(path)?))
}

fn parse(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_have_the_counter() {
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(parse("low 0\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
    }
}
