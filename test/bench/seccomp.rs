//! What the default seccomp profile costs a container's start: with it and without, in turns, in one pod.

use std::time::Duration;

use anyhow::Result;
use corten_proto::cri::{NamespaceMode, security_profile::ProfileType};

use crate::{
    cri::PodKind,
    daemon::{Daemon, Runtime, Setup},
    report,
    samples::Samples,
};

const POD: &str = "seccomp";
/// Pairs that are not counted: they fill caches.
const WARM_UP: usize = 3;

/// The same operation with the filter and without, in pairs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compared {
    pub(crate) confined: Samples,
    pub(crate) unconfined: Samples,
    /// How much longer the confined one of each pair took. Unit: nanoseconds.
    differences: Vec<i64>,
}

impl Compared {
    pub(crate) fn push(&mut self, confined: Duration, unconfined: Duration) {
        self.confined.push(confined);
        self.unconfined.push(unconfined);
        let [confined, unconfined] =
            [confined, unconfined].map(|took| i64::try_from(took.as_nanos()).unwrap_or(i64::MAX));
        self.differences.push(confined - unconfined);
    }

    /// The median of the pairs' differences, in nanoseconds: what else the machine does hits both of a pair.
    pub(crate) fn difference(&self) -> Option<i64> {
        let mut sorted = self.differences.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) / 2).copied()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Seccomp {
    pub(crate) runtime: Runtime,
    /// CreateContainer and StartContainer.
    pub(crate) both: Compared,
    pub(crate) start: Compared,
}

/// Starts `n` containers with RuntimeDefault and `n` without a filter; each goes first in every other pair.
pub(crate) async fn starts(setup: &Setup, runtime: Runtime, n: usize) -> Result<Seccomp> {
    let mut daemon = setup.start(runtime).await?;
    let confined = daemon.pod_kind(NamespaceMode::Node);
    let unconfined = PodKind {
        seccomp: ProfileType::Unconfined,
        ..confined.clone()
    };
    let mut result = Seccomp {
        runtime,
        both: Compared::default(),
        start: Compared::default(),
    };
    let (sandbox, _) = daemon.client.run_sandbox(&confined, POD).await?;
    for turn in 0..WARM_UP + n {
        report::progress(turn, WARM_UP + n);
        let mut kinds = [&confined, &unconfined];
        if turn % 2 == 1 {
            kinds.reverse();
        }
        let mut took = [
            one(&mut daemon, kinds[0], &sandbox).await?,
            one(&mut daemon, kinds[1], &sandbox).await?,
        ];
        if turn % 2 == 1 {
            took.reverse();
        }
        let [confined, unconfined] = took;
        if turn >= WARM_UP {
            result
                .both
                .push(confined.iter().sum(), unconfined.iter().sum());
            result.start.push(confined[1], unconfined[1]);
        }
    }
    daemon.client.remove_sandbox(sandbox).await?;
    daemon.stop().await?;
    Ok(result)
}

/// CreateContainer and StartContainer of a container, which is removed again.
async fn one(daemon: &mut Daemon, kind: &PodKind, sandbox: &str) -> Result<[Duration; 2]> {
    let (container, took) = daemon.client.start_container(kind, POD, sandbox).await?;
    daemon.client.remove_container(container).await?;
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_that_of_pairs() {
        let mut compared = Compared::default();
        assert_eq!(compared.difference(), None);
        for (confined, unconfined) in [(12, 10), (900, 901), (33, 30)] {
            compared.push(
                Duration::from_nanos(confined),
                Duration::from_nanos(unconfined),
            );
        }
        assert_eq!(compared.difference(), Some(2));
    }
}
