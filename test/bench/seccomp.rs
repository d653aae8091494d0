//! What the default seccomp profile costs a container's start: with it and without, in turns, in one pod.

use anyhow::Result;
use corten_proto::cri::{NamespaceMode, security_profile::ProfileType};

use crate::{
    cri::PodKind,
    daemon::{Daemon, Runtime, Setup},
    report,
    samples::Samples,
};

const POD: &str = "seccomp";
/// First of either, not counted: they fill caches.
const WARM_UP: usize = 3;

/// CreateContainer with StartContainer, and StartContainer alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Starts {
    pub(crate) both: Samples,
    pub(crate) start: Samples,
}

#[derive(Clone, Debug)]
pub(crate) struct Seccomp {
    pub(crate) runtime: Runtime,
    pub(crate) confined: Starts,
    pub(crate) unconfined: Starts,
}

/// Starts `n` containers with RuntimeDefault and `n` without a filter; each goes first in every other turn.
pub(crate) async fn starts(setup: &Setup, runtime: Runtime, n: usize) -> Result<Seccomp> {
    let mut daemon = setup.start(runtime).await?;
    let confined = daemon.pod_kind(NamespaceMode::Node);
    let unconfined = PodKind {
        seccomp: ProfileType::Unconfined,
        ..confined.clone()
    };
    let mut result = Seccomp {
        runtime,
        confined: Starts::default(),
        unconfined: Starts::default(),
    };
    let (sandbox, _) = daemon.client.run_sandbox(&confined, POD).await?;
    for _ in 0..WARM_UP {
        for kind in [&confined, &unconfined] {
            one(&mut daemon, kind, &sandbox, &mut Starts::default()).await?;
        }
    }
    for turn in 0..n {
        report::progress(turn, n);
        let mut pair = [
            (&confined, &mut result.confined),
            (&unconfined, &mut result.unconfined),
        ];
        if turn % 2 == 1 {
            pair.reverse();
        }
        for (kind, starts) in pair {
            one(&mut daemon, kind, &sandbox, starts).await?;
        }
    }
    daemon.client.remove_sandbox(sandbox).await?;
    daemon.stop().await?;
    Ok(result)
}

async fn one(
    daemon: &mut Daemon,
    kind: &PodKind,
    sandbox: &str,
    starts: &mut Starts,
) -> Result<()> {
    let started = daemon.client.start_container(kind, POD, sandbox).await?;
    let (container, [create, start]) = started;
    starts.both.push(create + start);
    starts.start.push(start);
    daemon.client.remove_container(container).await
}
