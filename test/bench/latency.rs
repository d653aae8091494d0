//! How long a pod's start and an ExecSync take, one at a time, the sides in turns.

use std::time::Duration;

use anyhow::{Context, Result};
use corten_proto::cri::NamespaceMode;

use crate::{
    cri::StartTimes,
    daemon::{Daemon, Runtime},
    report,
    samples::Samples,
};

/// Pods of one side before the other's turn.
const TURN: usize = 10;
/// First of each side, not counted: they fill caches.
const WARM_UP: usize = 3;
/// After each removal, for what a runtime still does off the caller's path.
const SETTLE: Duration = Duration::from_millis(100);

/// One operation on one side.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    pub(crate) runtime: Runtime,
    pub(crate) total: Samples,
    /// RPCs that the operation is made of, where it is more than one.
    pub(crate) steps: Vec<(&'static str, Samples)>,
}

impl Latency {
    fn of(daemon: &Daemon) -> Self {
        Latency {
            runtime: daemon.runtime,
            total: Samples::default(),
            steps: Vec::new(),
        }
    }

    fn push_start(&mut self, times: StartTimes) {
        self.total.push(times.total());
        let steps = [
            ("RunPodSandbox", times.run),
            ("CreateContainer", times.create),
            ("StartContainer", times.start),
        ];
        if self.steps.is_empty() {
            self.steps = steps
                .iter()
                .map(|&(name, _)| (name, Samples::default()))
                .collect();
        }
        for ((_, samples), (_, took)) in self.steps.iter_mut().zip(steps) {
            samples.push(took);
        }
    }
}

/// Starts and removes `n` pods on each side; only the start is timed.
pub(crate) async fn pod_starts(
    sides: &mut [Daemon],
    network: NamespaceMode,
    n: usize,
) -> Result<Vec<Latency>> {
    let mut latencies: Vec<Latency> = sides.iter().map(Latency::of).collect();
    for daemon in &mut *sides {
        for i in 0..WARM_UP {
            one_pod(daemon, network, &format!("warm-{i}")).await?;
        }
    }
    for turn in turns(n) {
        for (daemon, latency) in sides.iter_mut().zip(&mut latencies) {
            for i in turn.clone() {
                latency.push_start(one_pod(daemon, network, &format!("pod-{i}")).await?);
            }
        }
    }
    Ok(latencies)
}

/// Starts a pod, removes it and lets its removal settle.
pub(crate) async fn one_pod(
    daemon: &mut Daemon,
    network: NamespaceMode,
    name: &str,
) -> Result<StartTimes> {
    let kind = daemon.pod_kind(network);
    let name = format!("{name}-{}", network.as_str_name().to_lowercase());
    let what = || format!("{} on {}", name, daemon.runtime.name());
    let (pod, times) = daemon
        .client
        .start_pod(&kind, &name)
        .await
        .with_context(what)?;
    daemon.client.remove_pod(pod).await.with_context(what)?;
    tokio::time::sleep(SETTLE).await;
    Ok(times)
}

/// Runs `true` `n` times in one running container of each side.
pub(crate) async fn execs(sides: &mut [Daemon], n: usize) -> Result<Vec<Latency>> {
    let mut latencies: Vec<Latency> = sides.iter().map(Latency::of).collect();
    let mut pods = Vec::new();
    for daemon in &mut *sides {
        let kind = daemon.pod_kind(NamespaceMode::Node);
        let (pod, _) = daemon.client.start_pod(&kind, "exec").await?;
        for _ in 0..WARM_UP {
            daemon
                .client
                .exec_true(&pod)
                .await
                .context(daemon.runtime.name())?;
        }
        pods.push(pod);
    }
    for turn in turns(n) {
        for ((daemon, latency), pod) in sides.iter_mut().zip(&mut latencies).zip(&pods) {
            for _ in turn.clone() {
                latency.total.push(
                    daemon
                        .client
                        .exec_true(pod)
                        .await
                        .context(daemon.runtime.name())?,
                );
            }
        }
    }
    for (daemon, pod) in sides.iter_mut().zip(pods) {
        daemon
            .client
            .remove_pod(pod)
            .await
            .context(daemon.runtime.name())?;
    }
    Ok(latencies)
}

/// `0..n` in pieces of one turn, with a word of progress each.
fn turns(n: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..n).step_by(TURN).map(move |first| {
        report::progress(first, n);
        first..n.min(first + TURN)
    })
}
