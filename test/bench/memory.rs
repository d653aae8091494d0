//! What a running pod costs in processes of the runtime: proportional set sizes, from smaps_rollup.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use corten_proto::cri::NamespaceMode;

use crate::daemon::{Daemon, Runtime, Setup};

/// For what a daemon still does after the last pod has started.
const SETTLE: Duration = Duration::from_secs(2);

/// Pods between which the growth is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) few: u64,
    pub(crate) many: u64,
}

/// PSS of a runtime's processes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) runtime: Runtime,
    /// Bytes that each pod between the two counts added.
    pub(crate) per_pod: u64,
    /// Bytes of everything at the higher count.
    pub(crate) at_many: u64,
}

/// Runs pods on a bridge with nothing else in the process namespace but the bench.
pub(crate) async fn per_pod(setup: &Setup, runtime: Runtime, range: Range) -> Result<Memory> {
    let mut daemon = setup.start(runtime).await?;
    let kind = daemon.pod_kind(NamespaceMode::Pod);
    let mut pods = Vec::new();
    let mut sizes = Vec::new();
    for n in 1..=range.many {
        let (pod, _) = daemon
            .client
            .start_pod(&kind, &format!("memory-{n}"))
            .await?;
        pods.push(pod);
        if n == range.few || n == range.many {
            sizes.push(settled_pss(&daemon, n).await?);
        }
    }
    for pod in pods {
        daemon.client.remove_pod(pod).await?;
    }
    daemon.stop().await?;
    let (at_few, at_many) = (sizes[0], sizes[1]);
    let per_pod = at_many.saturating_sub(at_few) / (range.many - range.few);
    Ok(Memory {
        runtime,
        per_pod,
        at_many,
    })
}

async fn settled_pss(daemon: &Daemon, pods: u64) -> Result<u64> {
    tokio::time::sleep(SETTLE).await;
    let processes = runtime_processes()?;
    ensure!(
        processes.contains(&daemon.pid()),
        "the daemon is not among {processes:?}"
    );
    let containers = process_ids()?.len() - processes.len();
    ensure!(
        containers as u64 > pods,
        "{pods} pods, but {containers} other processes"
    );
    processes.iter().map(|&pid| pss(pid)).sum()
}

/// Everything that is neither the bench nor inside a container. Those live in process namespaces of
/// their own; a shim is where the daemon is.
fn runtime_processes() -> Result<Vec<u32>> {
    let own = std::process::id();
    let is_runtime = |&pid: &u32| pid != 1 && pid != own && namespace_depth(pid) == Some(1);
    Ok(process_ids()?.into_iter().filter(is_runtime).collect())
}

fn process_ids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("read /proc")?.flatten();
    Ok(entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// In how many process namespaces, from ours down, the process has an id; none once it has ended.
fn namespace_depth(pid: u32) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    Some(ids.split_whitespace().count())
}

/// Bytes; 0 for a zombie.
fn pss(pid: u32) -> Result<u64> {
    let path = Path::new("/proc")
        .join(pid.to_string())
        .join("smaps_rollup");
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(0);
    };
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let Some(line) = line else { return Ok(0) };
    let kib: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .with_context(|| path.display().to_string())?;
    Ok(kib << 10)
}
