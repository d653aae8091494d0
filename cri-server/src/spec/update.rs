//! New limits for what there is already: a container's, and those of a pod's own cgroup.
//!
//! Rule (CRI, UpdateContainerResources): a field that is 0 or empty stays as it is.

use corten_proto::{cri, shim};

use super::{Host, Invalid, resources};

type Resources = cri::LinuxContainerResources;

/// The limits that `config` gives to a container whose plan is `plan`, with what the request leaves to us. `None` where it
/// says nothing of limits.
pub(crate) fn limits(config: &cri::ContainerConfig, plan: &shim::Plan) -> Option<Resources> {
    let asked = config.linux.as_ref()?.resources.as_ref()?;
    let planned = plan.cgroup.as_ref()?.resources.as_ref()?;
    Some(effective(asked.clone(), planned))
}

/// The limits of a container that has `now` after `asked` has changed them, and what its shim is to do for it.
pub(crate) fn update(
    host: &Host,
    now: &Resources,
    asked: &Resources,
) -> Result<(Resources, shim::Update), Invalid> {
    let wanted = merge(now, asked);
    let planned = resources::limits(&wanted, host).map_err(in_update)?;
    let score = resources::checked_oom_score_adj(wanted.oom_score_adj).map_err(in_update)?;
    let update = shim::Update {
        resources: Some(named(&planned, asked)),
        oom_score_adj: (asked.oom_score_adj != 0).then_some(score),
    };
    Ok((effective(wanted, &planned), update))
}

/// The limits of a pod's own cgroup, from the sum of its containers' and what the pod costs beside them.
pub(crate) fn pod_limits(
    host: &Host,
    containers: &Resources,
    overhead: &Resources,
) -> Result<shim::Resources, Invalid> {
    let sum = add(containers, overhead);
    let planned = resources::limits(&sum, host).map_err(|invalid| {
        let field = invalid.field.replacen(resources::FIELD, "resources", 1);
        Invalid::new(field, invalid.reason)
    })?;
    if containers.oom_score_adj != 0 {
        let reason = "is a process's, and a pod has none";
        return Err(Invalid::new("resources.oom_score_adj", reason));
    }
    let mut named = named(&planned, &sum);
    if sum.memory_swap_limit_in_bytes == 0 {
        // Each container has its own.
        named.memory_and_swap_limit = 0;
    }
    Ok(named)
}

fn in_update(invalid: Invalid) -> Invalid {
    let field = invalid.field.replacen(resources::FIELD, "linux", 1);
    Invalid::new(field, invalid.reason)
}

fn merge(now: &Resources, asked: &Resources) -> Resources {
    let number = |asked: i64, now| if asked == 0 { now } else { asked };
    let text = |asked: &String, now: &String| {
        let chosen = if asked.is_empty() { now } else { asked };
        chosen.clone()
    };
    let mut hugepage_limits = now.hugepage_limits.clone();
    for limit in &asked.hugepage_limits {
        hugepage_limits.retain(|old| old.page_size != limit.page_size);
        hugepage_limits.push(limit.clone());
    }
    let mut unified = now.unified.clone();
    unified.extend(asked.unified.clone());
    Resources {
        cpu_period: number(asked.cpu_period, now.cpu_period),
        cpu_quota: number(asked.cpu_quota, now.cpu_quota),
        cpu_shares: number(asked.cpu_shares, now.cpu_shares),
        memory_limit_in_bytes: number(asked.memory_limit_in_bytes, now.memory_limit_in_bytes),
        oom_score_adj: number(asked.oom_score_adj, now.oom_score_adj),
        cpuset_cpus: text(&asked.cpuset_cpus, &now.cpuset_cpus),
        cpuset_mems: text(&asked.cpuset_mems, &now.cpuset_mems),
        hugepage_limits,
        unified,
        memory_swap_limit_in_bytes: swap(now, asked),
    }
}

/// A container that may not swap may not do so with more memory either: the limit of both follows that of memory.
fn swap(now: &Resources, asked: &Resources) -> i64 {
    let follows = now.memory_swap_limit_in_bytes == now.memory_limit_in_bytes;
    match asked.memory_swap_limit_in_bytes {
        0 if asked.memory_limit_in_bytes != 0 && follows => asked.memory_limit_in_bytes,
        0 if asked.memory_limit_in_bytes == -1 => -1,
        0 => now.memory_swap_limit_in_bytes,
        swap => swap,
    }
}

/// Of `planned` what `asked` names.
fn named(planned: &shim::Resources, asked: &Resources) -> shim::Resources {
    let mut named = planned.clone();
    if asked.cpu_period == 0 && asked.cpu_quota == 0 {
        (named.cpu_period, named.cpu_quota) = (0, 0);
    }
    if asked.memory_limit_in_bytes == 0 && asked.memory_swap_limit_in_bytes == 0 {
        (named.memory_limit, named.memory_and_swap_limit) = (0, 0);
    }
    if asked.cpu_shares == 0 {
        named.cpu_shares = 0;
    }
    if asked.cpuset_cpus.is_empty() {
        named.cpuset_cpus.clear();
    }
    if asked.cpuset_mems.is_empty() {
        named.cpuset_mems.clear();
    }
    let sizes = &asked.hugepage_limits;
    let is_named = |size: &str| sizes.iter().any(|limit| limit.page_size == size);
    named
        .hugepage_limits
        .retain(|limit| is_named(&limit.page_size));
    named
        .unified
        .retain(|file, _| asked.unified.contains_key(file));
    named
}

/// `wanted` as it comes out.
fn effective(wanted: Resources, planned: &shim::Resources) -> Resources {
    Resources {
        cpu_shares: planned.cpu_shares,
        memory_swap_limit_in_bytes: planned.memory_and_swap_limit,
        ..wanted
    }
}

/// A limit is a sum where there is one; what is unlimited stays so.
fn add(containers: &Resources, overhead: &Resources) -> Resources {
    let sum = |limit: i64, more: i64| {
        if limit > 0 {
            limit.saturating_add(more.max(0))
        } else {
            limit
        }
    };
    // A share of time, in the period of the sum.
    let period = |resources: &Resources| {
        if resources.cpu_period == 0 {
            100_000
        } else {
            resources.cpu_period
        }
    };
    let quota = overhead.cpu_quota.saturating_mul(period(containers)) / period(overhead);
    Resources {
        cpu_shares: sum(containers.cpu_shares, overhead.cpu_shares),
        cpu_quota: sum(containers.cpu_quota, quota),
        memory_limit_in_bytes: sum(
            containers.memory_limit_in_bytes,
            overhead.memory_limit_in_bytes,
        ),
        ..containers.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: i64 = 1 << 20;

    fn memory(limit: i64, swap: i64) -> Resources {
        Resources {
            memory_limit_in_bytes: limit,
            memory_swap_limit_in_bytes: swap,
            ..Default::default()
        }
    }

    fn updated(now: &Resources, asked: &Resources) -> (Resources, shim::Resources) {
        let (after, update) = update(&Host::for_test(), now, asked).unwrap();
        (after, update.resources.unwrap())
    }

    #[test]
    fn what_is_not_named_stays_and_is_not_written() {
        let now = Resources {
            cpu_shares: 512,
            cpuset_cpus: "0".into(),
            ..memory(15 * M, 20 * M)
        };
        let asked = Resources {
            cpu_quota: 5_000,
            ..Default::default()
        };
        let (after, written) = updated(&now, &asked);
        assert_eq!(
            after,
            Resources {
                cpu_quota: 5_000,
                ..now
            }
        );
        assert_eq!(
            written,
            shim::Resources {
                cpu_quota: 5_000,
                ..Default::default()
            }
        );
    }

    #[test]
    fn swap_follows_memory_where_there_was_none() {
        let (after, written) = updated(&memory(15 * M, 15 * M), &memory(30 * M, 0));
        assert_eq!(after, memory(30 * M, 30 * M));
        assert_eq!(
            (written.memory_limit, written.memory_and_swap_limit),
            (30 * M, 30 * M)
        );
        assert_eq!(
            updated(&memory(15 * M, 20 * M), &memory(18 * M, 0)).0,
            memory(18 * M, 20 * M)
        );
        assert_eq!(
            updated(&memory(15 * M, 20 * M), &memory(0, 40 * M)).0,
            memory(15 * M, 40 * M)
        );
        assert_eq!(
            updated(&memory(15 * M, 20 * M), &memory(-1, 0)).0,
            memory(-1, -1)
        );
        assert_eq!(
            updated(&memory(0, 0), &memory(9 * M, 0)).0,
            memory(9 * M, 9 * M)
        );
        let invalid = update(
            &Host::for_test(),
            &memory(15 * M, 20 * M),
            &memory(30 * M, 0),
        );
        assert_eq!(
            invalid.unwrap_err().field,
            "linux.memory_swap_limit_in_bytes"
        );
    }

    #[test]
    fn a_pods_limits_are_its_containers_and_its_own_costs() {
        let resources = |quota, shares, limit| Resources {
            cpu_period: 100_000,
            cpu_quota: quota,
            cpu_shares: shares,
            ..memory(limit, 0)
        };
        let overhead = Resources {
            cpu_period: 50_000,
            ..resources(5_000, 102, 8 * M)
        };
        let pod = |containers| pod_limits(&Host::for_test(), &containers, &overhead).unwrap();
        let all = pod(resources(50_000, 512, 64 * M));
        assert_eq!(
            (all.cpu_quota, all.cpu_shares, all.memory_limit),
            (60_000, 614, 72 * M)
        );
        let none = pod(resources(-1, 0, 0));
        assert_eq!(
            (none.cpu_quota, none.cpu_shares, none.memory_limit),
            (-1, 0, 0)
        );
    }
}
