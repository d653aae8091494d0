//! New limits for a pod's own cgroup.

use std::{io, sync::Arc};

use corten_proto::{cri, shim};
use corten_sys::cgroup::{Cgroup, HugepageLimit, Resources};

use super::Pod;
use crate::{
    blocking::blocking,
    context::Context,
    error::{Error, Result},
    spec,
};

/// Sets the pod's cgroup to the sum of its `containers` and its own costs: all limits, or after an error none.
pub(crate) async fn update(
    cx: &Arc<Context>,
    pod: &Pod,
    mut containers: cri::LinuxContainerResources,
    overhead: &cri::LinuxContainerResources,
) -> Result<()> {
    pod.check_ready()?;
    drop_partial_sums(cx, pod, &mut containers);
    let limits = spec::pod_limits(&cx.host, &containers, overhead)?;
    if limits == shim::Resources::default() {
        return Ok(());
    }
    let Some(path) = pod.own_cgroup().map(ToOwned::to_owned) else {
        return Err(Error::State {
            subject: format!(
                "cgroup {} of pod sandbox {}",
                pod.record.cgroup_parent, pod.record.id
            ),
            state: "not the pod's alone",
            need: "give the pod a linux.cgroup_parent that ends in pod<uid>",
        });
    };
    let hierarchies = Arc::clone(&cx.undo.hierarchies);
    blocking(move || {
        let cgroup = Cgroup::new(&hierarchies, &path);
        cgroup
            .update(&resources(limits))
            .map_err(|error| refused(&path, error))
    })
    .await
}

/// A sum is a limit of the pod only where each of its containers has one: one without may use what it likes, and must not
/// be killed because of its neighbours' limits.
fn drop_partial_sums(cx: &Context, pod: &Pod, sum: &mut cri::LinuxContainerResources) {
    let mut containers = cx.store.containers_of(&pod.record.id);
    containers.retain(|container| !container.is_exited());
    let limits: Vec<_> = containers
        .iter()
        .map(|container| container.limits().unwrap_or_default())
        .collect();
    if limits
        .iter()
        .any(|limits| limits.memory_limit_in_bytes <= 0)
    {
        sum.memory_limit_in_bytes = 0;
        sum.memory_swap_limit_in_bytes = 0;
    }
    if limits.iter().any(|limits| limits.cpu_quota <= 0) {
        sum.cpu_period = 0;
        sum.cpu_quota = 0;
    }
}

fn refused(path: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ResourceBusy | io::ErrorKind::InvalidInput => {
            Error::invalid("resources", error.to_string())
        }
        _ => Error::Io {
            doing: format!("set limits of cgroup {path}"),
            source: error,
        },
    }
}

fn resources(limits: shim::Resources) -> Resources {
    let hugepage = |limit: shim::HugepageLimit| HugepageLimit {
        page_size: limit.page_size,
        limit: limit.limit,
    };
    Resources {
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        cpuset_cpus: limits.cpuset_cpus,
        cpuset_mems: limits.cpuset_mems,
        memory_limit: limits.memory_limit,
        memory_and_swap_limit: limits.memory_and_swap_limit,
        pids_limit: limits.pids_limit,
        hugepage_limits: limits.hugepage_limits.into_iter().map(hugepage).collect(),
        unified: limits.unified.into_iter().collect(),
    }
}
