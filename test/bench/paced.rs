//! ExecSync at the pace of probes: how long a call takes when it comes alone, and what it costs in processor time.

use std::time::Duration;

use anyhow::{Context, Result};
use corten_proto::cri::NamespaceMode;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    daemon::{Daemon, Runtime},
    report,
    samples::Samples,
};

/// From one call to the next: 20 a second.
const PACE: Duration = Duration::from_millis(50);
/// Calls of one side before the other's turn: a second.
const TURN: u32 = 20;

/// One side's figures.
#[derive(Debug)]
pub(crate) struct Paced {
    pub(crate) runtime: Runtime,
    pub(crate) wall: Samples,
    /// Of daemon, shims, runtimes and what they run, a call; one sample a turn.
    pub(crate) processor: Samples,
}

/// Runs `true` at least `n` times in one running container of each side.
pub(crate) async fn execs(sides: &mut [Daemon], n: usize) -> Result<Vec<Paced>> {
    let (mut all, mut pods) = (Vec::new(), Vec::new());
    for daemon in &mut *sides {
        let kind = daemon.pod_kind(NamespaceMode::Node);
        let (pod, _) = daemon.client.start_pod(&kind, "paced").await?;
        daemon.client.exec_true(&pod).await?;
        pods.push(pod);
        all.push(Paced {
            runtime: daemon.runtime,
            wall: Samples::default(),
            processor: Samples::default(),
        });
    }
    let turns = n.div_ceil(TURN as usize);
    for turn in 0..turns {
        report::progress(turn, turns);
        for ((daemon, paced), pod) in sides.iter_mut().zip(&mut all).zip(&pods) {
            let processor = daemon.processor().clone();
            let mut ticks = interval(PACE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
            let before = processor.all()?;
            for _ in 0..TURN {
                let took = daemon.client.exec_true(pod).await;
                paced.wall.push(took.context(daemon.runtime.name())?);
                // Also after the last: what is done behind the answer belongs to the call.
                ticks.tick().await;
            }
            let used = processor.all()?.saturating_sub(before);
            paced.processor.push(used / TURN);
        }
    }
    for (daemon, pod) in sides.iter_mut().zip(pods) {
        daemon.client.remove_pod(pod).await?;
    }
    Ok(all)
}
