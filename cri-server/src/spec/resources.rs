//! Limits: cgroup values, `oom_score_adj`, rlimits. 0 and empty say nothing; -1 is unlimited where
//! the CRI has it.

use std::collections::HashSet;

use corten_proto::{cri, shim};

use super::{Defaults, Host, Invalid};

pub(super) const FIELD: &str = "config.linux.resources";
/// `include/uapi/asm-generic/resource.h`.
const RLIMIT_NOFILE: u32 = 7;
/// Bytes. Below this not even the exec of a static program succeeds; it would end in a kill without
/// a word.
const LEAST_MEMORY: i64 = 512 * 1024;

/// What goes to the container's cgroup.
pub(super) fn plan(
    config: &cri::ContainerConfig,
    host: &Host,
    defaults: &Defaults,
) -> Result<shim::Resources, Invalid> {
    let asked = resources(config).map(|asked| limits(asked, host));
    Ok(shim::Resources {
        pids_limit: defaults.pids_limit,
        ..asked.transpose()?.unwrap_or_default()
    })
}

/// What of the limits a cgroup has files for.
pub(super) fn limits(
    asked: &cri::LinuxContainerResources,
    host: &Host,
) -> Result<shim::Resources, Invalid> {
    cpu(asked)?;
    for (list, name) in [
        (&asked.cpuset_cpus, "cpuset_cpus"),
        (&asked.cpuset_mems, "cpuset_mems"),
    ] {
        cpuset(list)
            .ok_or_else(|| invalid(name, format!("{list:?} is not a list as in \"0-3,7\"")))?;
    }
    Ok(shim::Resources {
        cpu_period: asked.cpu_period,
        cpu_quota: asked.cpu_quota,
        cpu_shares: shares(asked.cpu_shares),
        cpuset_cpus: asked.cpuset_cpus.clone(),
        cpuset_mems: asked.cpuset_mems.clone(),
        memory_limit: memory(asked.memory_limit_in_bytes)?,
        memory_and_swap_limit: memory_and_swap(asked)?,
        pids_limit: 0,
        hugepage_limits: hugepages(asked, host)?,
        unified: unified(asked, host)?,
    })
}

/// -1000 (never killed) to 1000 (killed first).
pub(super) fn oom_score_adj(config: &cri::ContainerConfig) -> Result<i32, Invalid> {
    checked_oom_score_adj(resources(config).map_or(0, |asked| asked.oom_score_adj))
}

pub(super) fn checked_oom_score_adj(value: i64) -> Result<i32, Invalid> {
    match i32::try_from(value) {
        Ok(value @ -1000..=1000) => Ok(value),
        _ => Err(invalid(
            "oom_score_adj",
            format!("{value} is not within -1000 to 1000"),
        )),
    }
}

pub(super) fn nofile(soft: u64, hard: u64) -> shim::Rlimit {
    shim::Rlimit {
        resource: RLIMIT_NOFILE,
        soft,
        hard,
    }
}

fn resources(config: &cri::ContainerConfig) -> Option<&cri::LinuxContainerResources> {
    config.linux.as_ref()?.resources.as_ref()
}

fn invalid(name: &str, reason: impl Into<String>) -> Invalid {
    Invalid::new(format!("{FIELD}.{name}"), reason)
}

/// Rule: kernel, `scheduler/sched-bwc`: periods of 1 ms to 1 s, quotas of 1 ms and more, both in
/// microseconds.
fn cpu(asked: &cri::LinuxContainerResources) -> Result<(), Invalid> {
    if !matches!(asked.cpu_period, 0 | 1_000..=1_000_000) {
        let reason = format!(
            "{} is not within 1000 to 1000000 microseconds",
            asked.cpu_period
        );
        return Err(invalid("cpu_period", reason));
    }
    if !matches!(asked.cpu_quota, -1 | 0 | 1_000..) {
        let reason = format!(
            "{} is neither -1 nor 1000 microseconds or more",
            asked.cpu_quota
        );
        return Err(invalid("cpu_quota", reason));
    }
    if asked.cpu_shares < 0 {
        return Err(invalid(
            "cpu_shares",
            format!("{} is negative", asked.cpu_shares),
        ));
    }
    Ok(())
}

/// Cut to what v1 takes, as its kernel does, so that v2's weight comes out the same.
fn shares(shares: i64) -> i64 {
    if shares == 0 {
        0
    } else {
        shares.clamp(2, 262_144)
    }
}

/// A list of numbers and ascending ranges, as the kernel's `cpuset.cpus` takes it.
fn cpuset(list: &str) -> Option<()> {
    if list.is_empty() {
        return Some(());
    }
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(first) || !plain(last) || first.parse::<u16>().ok()? > last.parse::<u16>().ok()? {
            return None;
        }
    }
    Some(())
}

fn memory(limit: i64) -> Result<i64, Invalid> {
    const NAME: &str = "memory_limit_in_bytes";
    match limit {
        0 | -1 | LEAST_MEMORY.. => Ok(limit),
        1.. => Err(invalid(
            NAME,
            format!("{limit} bytes are too few for any process: want {LEAST_MEMORY} or more"),
        )),
        _ => Err(invalid(NAME, format!("{limit} is negative and not -1"))),
    }
}

/// Memory and swap together. Unsaid, it is the memory limit: a limited container does not swap
/// (Kubernetes).
fn memory_and_swap(asked: &cri::LinuxContainerResources) -> Result<i64, Invalid> {
    const NAME: &str = "memory_swap_limit_in_bytes";
    let memory = asked.memory_limit_in_bytes;
    match asked.memory_swap_limit_in_bytes {
        0 => Ok(memory),
        -1 => Ok(-1),
        ..0 => Err(invalid(NAME, "negative and not -1")),
        _ if memory <= 0 => Err(invalid(NAME, "set without memory_limit_in_bytes")),
        swap if swap < memory => {
            let reason = format!(
                "{swap} is less than the memory limit {memory}; it is the sum of memory and swap"
            );
            Err(invalid(NAME, reason))
        }
        swap => Ok(swap),
    }
}

/// The kubelet lists every size that its node had when it started, with 0 for those that the pod
/// does not ask for.
fn hugepages(
    asked: &cri::LinuxContainerResources,
    host: &Host,
) -> Result<Vec<shim::HugepageLimit>, Invalid> {
    let mut limits = Vec::new();
    let mut seen = HashSet::new();
    for (i, asked) in asked.hugepage_limits.iter().enumerate() {
        let (size, limit) = (&asked.page_size, asked.limit);
        if !seen.insert(size) {
            return Err(invalid(
                &format!("hugepage_limits[{i}].page_size"),
                format!("{size:?} is there twice"),
            ));
        }
        match host.hugepage_sizes.contains(size) {
            true => limits.push(shim::HugepageLimit {
                page_size: size.clone(),
                limit,
            }),
            false if limit == 0 => {}
            false => {
                let reason = format!(
                    "this host has no pages of {size:?}, but of {:?}",
                    host.hugepage_sizes
                );
                return Err(invalid(&format!("hugepage_limits[{i}].page_size"), reason));
            }
        }
    }
    Ok(limits)
}

/// Files of cgroup v2 and what to write there. A name is one file of a controller, never a path;
/// `cgroup.*` moves processes and is ours.
fn unified(
    asked: &cri::LinuxContainerResources,
    host: &Host,
) -> Result<std::collections::HashMap<String, String>, Invalid> {
    for (name, value) in &asked.unified {
        let field = format!("unified[{name:?}]");
        let plain = name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.'));
        let controller = name
            .split_once('.')
            .map_or("", |(controller, _)| controller);
        if !plain || name.contains("..") || controller.is_empty() || controller == "cgroup" {
            return Err(invalid(
                &field,
                "not a file of a controller, as in \"memory.high\"",
            ));
        }
        if value.contains('\0') {
            return Err(invalid(&field, "the value has a NUL"));
        }
        if !host.cgroup_v2 {
            return Err(invalid(&field, "needs cgroup v2; this host has v1"));
        }
    }
    Ok(asked.unified.clone().into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Resources = cri::LinuxContainerResources;

    fn config(resources: Resources) -> cri::ContainerConfig {
        let linux = cri::LinuxContainerConfig {
            resources: Some(resources),
            ..Default::default()
        };
        cri::ContainerConfig {
            linux: Some(linux),
            ..Default::default()
        }
    }

    fn planned(resources: Resources) -> Result<shim::Resources, Invalid> {
        let host = Host {
            cgroup_v2: true,
            ..Host::for_test()
        };
        plan(
            &config(resources),
            &host,
            &Defaults {
                pids_limit: 99,
                ..Defaults::default()
            },
        )
    }

    #[track_caller]
    fn refused(resources: Resources, name: &str) {
        assert_eq!(
            planned(resources).unwrap_err().field,
            format!("{FIELD}.{name}")
        );
    }

    #[test]
    fn nothing_asked_is_the_pids_limit_alone() {
        let want = shim::Resources {
            pids_limit: 99,
            ..Default::default()
        };
        assert_eq!(planned(Resources::default()), Ok(want.clone()));
        let defaults = Defaults {
            pids_limit: 99,
            ..Defaults::default()
        };
        assert_eq!(
            plan(
                &cri::ContainerConfig::default(),
                &Host::for_test(),
                &defaults
            ),
            Ok(want)
        );
    }

    #[test]
    fn cpu_values_are_checked_and_shares_cut() {
        let cpu = |period, quota, shares| {
            let asked = Resources {
                cpu_period: period,
                cpu_quota: quota,
                cpu_shares: shares,
                ..Default::default()
            };
            planned(asked).map(|got| (got.cpu_period, got.cpu_quota, got.cpu_shares))
        };
        assert_eq!(cpu(100_000, -1, 1), Ok((100_000, -1, 2)));
        assert_eq!(cpu(1_000, 1_000, 1_000_000), Ok((1_000, 1_000, 262_144)));
        for (period, quota, shares, name) in [
            (999, 0, 0, "cpu_period"),
            (-1, 0, 0, "cpu_period"),
            (0, 999, 0, "cpu_quota"),
            (0, -2, 0, "cpu_quota"),
        ] {
            assert_eq!(
                cpu(period, quota, shares).unwrap_err().field,
                format!("{FIELD}.{name}")
            );
        }
        assert_eq!(
            cpu(0, 0, -1).unwrap_err().field,
            format!("{FIELD}.cpu_shares")
        );
    }

    #[test]
    fn cpusets_are_lists_of_numbers_and_ranges() {
        for list in ["", "0", "0-3", "0-3,7,9-9"] {
            assert!(cpuset(list).is_some(), "{list}");
        }
        for list in [
            ",", "3-1", "a", "0-", "-1", "0,", "+1", "0 ", "0-1-2", "99999", "1\n2",
        ] {
            assert!(cpuset(list).is_none(), "{list:?}");
        }
        refused(
            Resources {
                cpuset_mems: "x".into(),
                ..Default::default()
            },
            "cpuset_mems",
        );
    }

    #[test]
    fn swap_counts_memory_too() {
        const M: i64 = 1 << 20;
        let limits = |memory, swap| {
            let asked = Resources {
                memory_limit_in_bytes: memory,
                memory_swap_limit_in_bytes: swap,
                ..Default::default()
            };
            planned(asked).map(|got| (got.memory_limit, got.memory_and_swap_limit))
        };
        assert_eq!(limits(15 * M, 0), Ok((15 * M, 15 * M)));
        assert_eq!(limits(15 * M, 15 * M), Ok((15 * M, 15 * M)));
        assert_eq!(limits(15 * M, 20 * M), Ok((15 * M, 20 * M)));
        assert_eq!(limits(15 * M, -1), Ok((15 * M, -1)));
        assert_eq!(limits(-1, 0), Ok((-1, -1)));
        assert_eq!(limits(0, 0), Ok((0, 0)));
        for (memory, swap, name) in [
            (15 * M, 14 * M, "memory_swap_limit_in_bytes"),
            (0, M, "memory_swap_limit_in_bytes"),
            (0, -2, "memory_swap_limit_in_bytes"),
            (-2, 0, "memory_limit_in_bytes"),
            (1, 0, "memory_limit_in_bytes"),
        ] {
            assert_eq!(
                limits(memory, swap).unwrap_err().field,
                format!("{FIELD}.{name}"),
                "{memory} {swap}"
            );
        }
    }

    #[test]
    fn huge_pages_that_the_host_lacks_count_only_when_wanted() {
        let limit = |page_size: &str, limit| cri::HugepageLimit {
            page_size: page_size.into(),
            limit,
        };
        let asked = |limits| Resources {
            hugepage_limits: limits,
            ..Default::default()
        };
        let got = planned(asked(vec![limit("2MB", 4 << 20), limit("64KB", 0)])).unwrap();
        assert_eq!(
            got.hugepage_limits,
            [shim::HugepageLimit {
                page_size: "2MB".into(),
                limit: 4 << 20
            }]
        );
        refused(
            asked(vec![limit("2MB", 1), limit("64KB", 1)]),
            "hugepage_limits[1].page_size",
        );
        refused(
            asked(vec![limit("2MB", 1), limit("2MB", 1)]),
            "hugepage_limits[1].page_size",
        );
    }

    #[test]
    fn unified_names_are_files_of_controllers_on_v2() {
        let asked = |name: &str| Resources {
            unified: [(name.to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(
            planned(asked("memory.high")).unwrap().unified["memory.high"],
            "1"
        );
        assert!(planned(asked("hugetlb.2MB.max")).is_ok());
        for name in [
            "",
            "memory",
            "../memory.high",
            "memory/high.x",
            "cgroup.procs",
            ".x",
            "memory..max",
        ] {
            refused(asked(name), &format!("unified[{name:?}]"));
        }
        let on_v1 = plan(
            &config(asked("memory.high")),
            &Host::for_test(),
            &Defaults::default(),
        );
        assert!(on_v1.unwrap_err().reason.contains("cgroup v2"));
    }

    #[test]
    fn the_oom_score_is_within_the_kernels_range() {
        let score = |value| {
            oom_score_adj(&config(Resources {
                oom_score_adj: value,
                ..Default::default()
            }))
        };
        assert_eq!(score(-997), Ok(-997));
        assert_eq!(oom_score_adj(&cri::ContainerConfig::default()), Ok(0));
        for value in [-1001, 1001, i64::MAX] {
            assert_eq!(
                score(value).unwrap_err().field,
                format!("{FIELD}.oom_score_adj")
            );
        }
    }
}
