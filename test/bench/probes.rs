//! Exec probes for a long time: many pods, each asked once a second, and what daemon and shims hold early and at the end.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use corten_proto::cri::NamespaceMode;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tonic::Status;

use crate::{
    cri::{Client, Pod},
    daemon::{Daemon, Runtime, Setup},
    processes::Snapshot,
    report,
    samples::Samples,
};

/// From one probe of a pod to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// Probes go on for so long before the first look: by then caches are full.
const FIRST: Duration = Duration::from_secs(60);
/// Without probes before a look: nothing is under way then.
const SETTLE: Duration = Duration::from_secs(15);

/// What came of the probes, and of the processes meanwhile.
#[derive(Debug)]
pub(crate) struct Soak {
    pub(crate) runtime: Runtime,
    pub(crate) pods: usize,
    pub(crate) minutes: u32,
    pub(crate) probes: Probes,
    /// Of daemon, shims and what they run, a probe.
    pub(crate) processor: Duration,
    pub(crate) early: Snapshot,
    pub(crate) late: Snapshot,
}

#[derive(Debug, Default)]
pub(crate) struct Probes {
    pub(crate) wall: Samples,
    /// How many failed, by code.
    pub(crate) failures: BTreeMap<String, usize>,
}

impl Probes {
    pub(crate) fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    /// Probes whose time passed while the one before was under way are failures, too.
    fn expect(&mut self, due: usize) {
        let missed = due.saturating_sub(self.wall.count() + self.failed());
        if missed > 0 {
            self.failures.insert("missed".to_owned(), missed);
        }
    }

    fn add(&mut self, outcome: Result<Duration>) {
        match outcome {
            Ok(took) => self.wall.push(took),
            Err(error) => {
                let what = match error.downcast_ref::<Status>() {
                    Some(status) => format!("{:?}", status.code()),
                    None => error.to_string(),
                };
                let count = self.failures.entry(what).or_default();
                if *count == 0 {
                    report::note(&format!("a probe failed: {error:#}"));
                }
                *count += 1;
            }
        }
    }
}

/// Probes `pods` pods of one container on the host's network for `minutes`, of which there are two at least.
pub(crate) async fn soak(
    setup: &Setup,
    runtime: Runtime,
    pods: usize,
    minutes: u32,
) -> Result<Soak> {
    if minutes < 2 {
        bail!("probes need two minutes at least: one is for the first look");
    }
    let mut daemon = setup.start(runtime).await?;
    let kind = daemon.pod_kind(NamespaceMode::Node);
    let mut started = Vec::new();
    for number in 0..pods {
        let name = format!("probed-{number}");
        started.push(daemon.client.start_pod(&kind, &name).await?.0);
    }
    let mut probes = Probes::default();
    let before = daemon.processor().all()?;
    probe(&daemon, &started, FIRST, &mut probes).await?;
    let early = settled(&daemon).await?;
    let rest = FIRST * (minutes - 1);
    probe(&daemon, &started, rest, &mut probes).await?;
    let used = daemon.processor().all()?.saturating_sub(before);
    let late = settled(&daemon).await?;
    probes.expect(pods * usize::try_from(minutes * 60)?);
    for pod in started {
        daemon.client.remove_pod(pod).await?;
    }
    daemon.stop().await?;
    let calls = u32::try_from(probes.wall.count())?.max(1);
    Ok(Soak {
        runtime,
        pods,
        minutes,
        processor: used / calls,
        probes,
        early,
        late,
    })
}

async fn settled(daemon: &Daemon) -> Result<Snapshot> {
    tokio::time::sleep(SETTLE).await;
    Snapshot::take(daemon)
}

/// Each pod once a period, one after the other within it.
async fn probe(daemon: &Daemon, pods: &[Pod], time: Duration, all: &mut Probes) -> Result<()> {
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for (number, pod) in pods.iter().enumerate() {
        let offset = PERIOD * u32::try_from(number)? / u32::try_from(pods.len())?;
        let (client, pod) = (daemon.client.clone(), pod.clone());
        tasks.spawn(one(client, pod, began + offset, began + time));
    }
    report::note(&format!("probes for {} s", time.as_secs()));
    while let Some(outcomes) = tasks.join_next().await {
        for outcome in outcomes.context("probe a pod")? {
            all.add(outcome);
        }
    }
    Ok(())
}

async fn one(mut client: Client, pod: Pod, first: Instant, end: Instant) -> Vec<Result<Duration>> {
    let mut ticks = interval_at(first, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut outcomes = Vec::new();
    while ticks.tick().await < end {
        outcomes.push(client.probe(&pod).await);
    }
    outcomes
}
