//! Pods with volumes, one after the other and all at once, as after a node's start or a scaled deployment.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use corten_proto::cri::NamespaceMode;
use tokio::task::JoinSet;

use crate::{
    cri::{Pod, PodKind},
    daemon::{Daemon, Runtime, Setup},
    report,
    samples::Samples,
};

/// Volumes of each pod.
const VOLUMES: usize = 5;
/// Of either way, in turns.
const ROUNDS: usize = 3;
/// After each removal, for what a runtime still does off the caller's path.
const SETTLE: Duration = Duration::from_millis(500);

/// How long all starts took.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) runtime: Runtime,
    pub(crate) pods: usize,
    pub(crate) one_by_one: Samples,
    pub(crate) at_once: Samples,
}

impl Batch {
    /// Of those that started at once.
    pub(crate) fn per_second(&self) -> f64 {
        let pods = u32::try_from(self.pods).unwrap_or(u32::MAX);
        f64::from(pods) / self.at_once.p50().as_secs_f64()
    }
}

/// Starts `pods` host-network pods in either way.
pub(crate) async fn starts(setup: &Setup, runtime: Runtime, pods: usize) -> Result<Batch> {
    let mut daemon = setup.start(runtime).await?;
    let mut batch = Batch {
        runtime,
        pods,
        one_by_one: Samples::default(),
        at_once: Samples::default(),
    };
    let kind = kind(&daemon, setup)?;
    for round in 0..ROUNDS {
        report::progress(round, ROUNDS);
        let began = Instant::now();
        let mut started = Vec::new();
        for number in 0..pods {
            let name = format!("single-{round}-{number}");
            started.push(daemon.client.start_pod(&kind, &name).await?.0);
        }
        batch.one_by_one.push(began.elapsed());
        remove(&mut daemon, started).await?;

        let began = Instant::now();
        let started = at_once(&daemon, &kind, round, pods).await?;
        batch.at_once.push(began.elapsed());
        remove(&mut daemon, started).await?;
    }
    daemon.stop().await?;
    Ok(batch)
}

async fn at_once(daemon: &Daemon, kind: &PodKind, round: usize, pods: usize) -> Result<Vec<Pod>> {
    let mut starts = JoinSet::new();
    for number in 0..pods {
        let (mut client, kind) = (daemon.client.clone(), kind.clone());
        starts.spawn(async move {
            let name = format!("batch-{round}-{number}");
            client.start_pod(&kind, &name).await.map(|(pod, _)| pod)
        });
    }
    let mut started = Vec::new();
    while let Some(pod) = starts.join_next().await {
        started.push(pod.context("start a pod")??);
    }
    Ok(started)
}

async fn remove(daemon: &mut Daemon, pods: Vec<Pod>) -> Result<()> {
    for pod in pods {
        daemon.client.remove_pod(pod).await?;
    }
    tokio::time::sleep(SETTLE).await;
    Ok(())
}

/// With volumes that are there.
fn kind(daemon: &Daemon, setup: &Setup) -> Result<PodKind> {
    let volumes = (0..VOLUMES).map(|number| {
        let volume = setup.root.join("volumes").join(number.to_string());
        fs::create_dir_all(&volume).context("create a volume")?;
        Ok(volume)
    });
    Ok(PodKind {
        volumes: volumes.collect::<Result<_>>()?,
        ..daemon.pod_kind(NamespaceMode::Node)
    })
}
