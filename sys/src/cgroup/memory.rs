//! memory: limits, usage, and how often the kernel killed for want of it.

use std::{fs, io, path::Path};

use super::{
    Cgroup, Resources, keyed, read_if_there,
    usage::{MemoryUsage, SwapUsage},
    write,
};

/// v1 has no word for "without limit": the largest multiple of a page that it can hold.
const V1_UNLIMITED: u64 = i64::MAX.cast_unsigned() & !0xffff;

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

pub(super) fn usage(cgroup: &Cgroup<'_>) -> io::Result<Option<MemoryUsage>> {
    if let Some(dir) = cgroup.v1("memory") {
        return usage_v1(&dir).map(Some);
    }
    let Some(dir) = cgroup.v2() else {
        return Ok(None);
    };
    let Some(total) = number(&dir.join("memory.current"))? else {
        return Ok(None);
    };
    let stat = fs::read_to_string(dir.join("memory.stat"))?;
    let field = |name| keyed(&stat, name).unwrap_or_default();
    let swap = number(&dir.join("memory.swap.current"))?;
    let swap_limit = number(&dir.join("memory.swap.max"))?;
    Ok(Some(MemoryUsage {
        total,
        inactive_file: field("inactive_file"),
        rss: field("anon"),
        limit: number(&dir.join("memory.max"))?,
        page_faults: field("pgfault"),
        major_page_faults: field("pgmajfault"),
        swap: swap.map(|used| SwapUsage {
            used,
            limit: swap_limit,
        }),
    }))
}

fn usage_v1(dir: &Path) -> io::Result<MemoryUsage> {
    let stat = fs::read_to_string(dir.join("memory.stat"))?;
    // With the cgroups below it.
    let field = |name: &str| keyed(&stat, &format!("total_{name}"));
    let limited =
        |file| Ok::<_, io::Error>(number(&dir.join(file))?.filter(|limit| *limit < V1_UNLIMITED));
    let limit = limited("memory.limit_in_bytes")?;
    let both = limited("memory.memsw.limit_in_bytes")?;
    Ok(MemoryUsage {
        total: number(&dir.join("memory.usage_in_bytes"))?.unwrap_or_default(),
        inactive_file: field("inactive_file").unwrap_or_default(),
        rss: field("rss").unwrap_or_default(),
        limit,
        page_faults: field("pgfault").unwrap_or_default(),
        major_page_faults: field("pgmajfault").unwrap_or_default(),
        swap: field("swap").map(|used| SwapUsage {
            used,
            limit: both.map(|both| both.saturating_sub(limit.unwrap_or_default())),
        }),
    })
}

/// `None` for "max" and where there is no such file.
fn number(path: &Path) -> io::Result<Option<u64>> {
    Ok(read_if_there(path)?.and_then(|text| text.trim().parse().ok()))
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
    Ok(oom_kill(&fs::read_to_string(path)?))
}

fn oom_kill(text: &str) -> u64 {
    keyed(text, "oom_kill").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_have_the_counter() {
        assert_eq!(oom_kill("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(oom_kill("low 0\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
    }
}
