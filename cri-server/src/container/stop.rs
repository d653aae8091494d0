//! Ending a container. The shim keeps the deadline, so that it survives the caller and the daemon, and only ever brings it
//! forward.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use super::{Container, exit};
use crate::{
    context::Context,
    error::{Error, Result},
};

/// A process that SIGKILL does not end within this time hangs in the kernel.
const AFTER_KILL: Duration = Duration::from_secs(30);

/// Sends the stop signal, waits `grace`, then kills. Returns when the container has exited. One whose program does not run
/// yet is killed at once.
pub(crate) async fn stop(
    cx: &Arc<Context>,
    container: &Arc<Container>,
    grace: Duration,
) -> Result<()> {
    container.settled().await;
    if container.is_exited() {
        return Ok(());
    }
    let asked = match container.shim() {
        Some(client) => client.stop(container.record.stop_signal, grace).await,
        // Its end is being recorded.
        None => Ok(()),
    };
    if let Err(error) = asked {
        if container.has_ended_before(&error).await || container.is_exited() {
            return Ok(());
        }
        tracing::warn!(container = %container.record.id, %error, "the shim did not take the stop and is killed");
        exit::kill_all(cx, container).await;
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

/// Ends the container now, whether its program runs or not.
pub(crate) async fn end(cx: &Arc<Context>, container: &Arc<Container>) -> Result<()> {
    stop(cx, container, Duration::ZERO).await
}
