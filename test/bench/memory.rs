//! What a running pod costs in processes of the runtime: proportional set sizes, from smaps_rollup.

use std::time::Duration;

use anyhow::{Result, ensure};
use corten_proto::cri::NamespaceMode;

use crate::{
    daemon::{Daemon, Runtime, Setup},
    processes::Snapshot,
};

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
    let snapshot = Snapshot::take(daemon)?;
    let containers = snapshot.contained;
    ensure!(
        containers >= pods,
        "{pods} pods, but {containers} processes in containers"
    );
    Ok(snapshot.daemon.proportional + snapshot.shims.proportional)
}
