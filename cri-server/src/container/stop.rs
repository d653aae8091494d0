//! Ending a container. The shim keeps the deadline, so that it survives the caller and the daemon, and only ever brings it
//! forward.

use std::{sync::Arc, time::Duration};

use corten_sys::cgroup::Cgroup;
use tokio::{task::JoinSet, time::timeout};

use super::{Container, State, exit};
use crate::{
    blocking::blocking,
    context::Context,
    error::{Error, Result},
};

/// A process that SIGKILL does not end within this time hangs in the kernel.
const AFTER_KILL: Duration = Duration::from_secs(30);

/// Sends the stop signal, waits `grace`, then kills. Returns when the container has exited.
pub(crate) async fn stop(
    cx: &Arc<Context>,
    container: &Arc<Container>,
    grace: Duration,
) -> Result<()> {
    if container.is_exited() {
        return Ok(());
    }
    let asked = match container.shim() {
        Some(client) => client.stop(container.record.stop_signal, grace).await,
        None => Ok(()),
    };
    if let Err(error) = asked {
        if container.is_exited() {
            return Ok(());
        }
        // The shim may have ended a moment ago, or hang: the cgroup is there in either case.
        tracing::debug!(container = %container.record.id, %error, "the shim did not take the stop");
        kill_cgroup(cx, container).await?;
    }
    wait(container, grace.saturating_add(AFTER_KILL)).await
}

async fn wait(container: &Container, limit: Duration) -> Result<()> {
    let ended = timeout(limit, container.exited()).await;
    ended.map_err(|_elapsed| Error::Timeout {
        what: format!("stopping container {}", container.record.id),
        limit,
    })
}

async fn kill_cgroup(cx: &Context, container: &Container) -> Result<()> {
    let (hierarchies, path) = (
        Arc::clone(&cx.undo.hierarchies),
        container.record.cgroup.clone(),
    );
    blocking(move || {
        let doing = format!("kill everything in cgroup {path}");
        Cgroup::new(&hierarchies, &path)
            .kill()
            .map_err(|source| Error::Io { doing, source })
    })
    .await
}

/// Kills every container of the pod, side by side.
pub(crate) async fn kill_all(cx: &Arc<Context>, pod: &str) -> Result<()> {
    let mut stops = JoinSet::new();
    for container in cx.store.containers_of(pod) {
        let cx = Arc::clone(cx);
        stops.spawn(async move { end(&cx, &container).await });
    }
    let mut first = Ok(());
    while let Some(ended) = stops.join_next().await {
        first = first.and(ended.unwrap_or(Err(Error::Panicked)));
    }
    first
}

/// Ends the container now; one that was never started has no program to wait for.
pub(crate) async fn end(cx: &Arc<Context>, container: &Arc<Container>) -> Result<()> {
    if container.state() == State::Created {
        if let Some(client) = container.shim() {
            let _ = client.shutdown().await;
        }
        if timeout(AFTER_KILL, container.exited()).await.is_err() {
            exit::finish(cx, container, None).await;
        }
        return Ok(());
    }
    stop(cx, container, Duration::ZERO).await
}
