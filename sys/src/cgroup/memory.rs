//! memory: limits and usage.

use std::{fs, io, path::Path};

use super::{
    Cgroup, Resources, keyed, read_if_there,
    setting::{OrMax, Setting},
    usage::{MemoryUsage, SwapUsage},
};

const LIMIT: &str = "memory_limit_in_bytes";
const SWAP: &str = "memory_swap_limit_in_bytes";

/// v1 has no word for "without limit": the largest multiple of a page that it can hold.
const V1_UNLIMITED: u64 = i64::MAX.cast_unsigned() & !0xffff;

pub(super) fn settings(cgroup: &Cgroup<'_>, resources: &Resources) -> io::Result<Vec<Setting>> {
    let (memory, both) = (resources.memory_limit, resources.memory_and_swap_limit);
    let v1 = cgroup.v1("memory");
    let (dir, limit_file, swap_file) = match (&v1, cgroup.v2()) {
        (Some(dir), _) => (
            dir.clone(),
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
        ),
        (None, Some(dir)) => (dir, "memory.max", "memory.swap.max"),
        (None, None) => return Ok(Vec::new()),
    };
    let mut settings = Vec::new();
    if memory != 0 {
        let file = dir.join(limit_file);
        settings.push(match v1 {
            Some(_) => Setting::new(LIMIT, file, memory),
            None => Setting::new(LIMIT, file, OrMax(memory)),
        });
    }
    let file = dir.join(swap_file);
    // Not there where swap is not accounted.
    if both != 0 && file.exists() {
        if v1.is_some() {
            // It is never below the memory limit: what grows, grows first.
            let now = limited(&file)?.unwrap_or(u64::MAX);
            let swap = Setting::new(SWAP, file, both);
            let grows = memory < 0 || memory.cast_unsigned() > now;
            settings.insert(if grows { 0 } else { settings.len() }, swap);
        } else {
            // v2 counts swap alone.
            let swap = if both < 0 {
                -1
            } else {
                (both - memory.max(0)).max(0)
            };
            settings.push(Setting::new(SWAP, file, OrMax(swap)));
        }
    }
    Ok(settings)
}

/// v2 kills processes until the rest fits into a new limit, instead of refusing it.
pub(super) fn check_fits(cgroup: &Cgroup<'_>, resources: &Resources) -> io::Result<()> {
    let limit = match u64::try_from(resources.memory_limit) {
        Ok(0) | Err(_) => return Ok(()),
        Ok(limit) => limit,
    };
    match usage(cgroup)?.map(|usage| usage.working_set()) {
        Some(used) if used > limit => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{LIMIT}: {limit} bytes are less than the {used} in use"),
        )),
        _ => Ok(()),
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

/// A limit on v1; `None` is without.
fn limited(path: &Path) -> io::Result<Option<u64>> {
    Ok(number(path)?.filter(|limit| *limit < V1_UNLIMITED))
}

/// `None` for "max" and where there is no such file.
fn number(path: &Path) -> io::Result<Option<u64>> {
    Ok(read_if_there(path)?.and_then(|text| text.trim().parse().ok()))
}
