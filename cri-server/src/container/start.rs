//! Running a container's program.

use std::time::Duration;

use corten_proto::{
    layout,
    shim::{Failure, FailureKind, Phase, Started},
};
use tokio::time::{sleep, timeout};

use super::{Container, State, exit};
use crate::{
    context::Context,
    error::{Error, Result},
    record_file,
    shim::{self, Client},
};

/// Longest time between a start that was refused and the container's end.
const END: Duration = Duration::from_secs(5);
/// Pause between two looks at a start that another daemon asked for.
const LOOK: Duration = Duration::from_millis(20);

/// Lets the container's init run its program. One that cannot be run ends the container. One that runs already, whose start
/// was answered to nobody, is the answer to a retry.
pub(crate) async fn start(cx: &Context, container: &Container) -> Result<()> {
    container.settled().await;
    let _turn = container.turn.lock().await;
    match container.state() {
        State::Created => {}
        State::Running { .. } if !container.is_start_answered() => return Ok(()),
        State::Running { .. } => {
            return Err(container.in_state("running", "it can be started once"));
        }
        State::Exited { .. } => {
            return Err(container.in_state("exited", "it can be started once; make a new one"));
        }
    }
    let Some(client) = container.shim() else {
        return Err(container.in_state("lost", "its shim is gone; make a new one"));
    };
    let started = match client.start().await {
        Ok(started) => started,
        Err(source) => started_before(container, &client, source).await?,
    };
    if runs(cx, container, &started) {
        tracing::info!(container = %container.record.id, name = container.name, "container runs");
    }
    Ok(())
}

/// Outcome of a start that was refused because it was done: by a daemon that was killed meanwhile, or by the container's end.
async fn started_before(
    container: &Container,
    client: &Client,
    source: shim::Error,
) -> Result<Started> {
    if source.is_gone() {
        if let Some(started) = follow(client).await {
            return Ok(started);
        }
        if container.has_ended_before(&source).await {
            return Err(container.in_state("exited", "it was ended before its program ran"));
        }
    }
    let is_refused = |failure: &Failure| failure.kind() != FailureKind::FailurePhase;
    if source.failure().is_some_and(is_refused) {
        // The shim tells the end right after; a status that is asked for now should have it.
        let _ = timeout(END, container.exited()).await;
        if was_ended(container) {
            return Err(container.in_state("exited", "it was ended before its program ran"));
        }
    }
    let doing = format!("start container {}", container.record.id);
    Err(Error::Shim { doing, source })
}

/// Whether it has exited, and not because its program could not be run.
fn was_ended(container: &Container) -> bool {
    matches!(container.state(), State::Exited { reason, .. } if reason != exit::NOT_RUN)
}

/// Waits for the end of a start that is under way. `None` where there is none, or it has failed.
pub(crate) async fn follow(client: &Client) -> Option<Started> {
    loop {
        let hello = client.hello().await.ok()?;
        match hello.phase() {
            Phase::Running => {
                return Some(Started {
                    at_ns: hello.started_at_ns,
                    init_pid: hello.init_pid,
                });
            }
            // Rule: shim.proto, HelloReply: 0 before Start.
            Phase::Created if hello.started_at_ns != 0 => sleep(LOOK).await,
            Phase::Created | Phase::Empty | Phase::Exited => return None,
        }
    }
}

/// Takes over that it runs; false for one that ended at once, which is not set back. A later daemon hears it from the shim, and knows it from
/// the file until then.
pub(crate) fn runs(cx: &Context, container: &Container, started: &Started) -> bool {
    let id = &container.record.id;
    let file = layout::container_state(&cx.config.state, id).join(layout::STARTED);
    if let Err(error) = record_file::write(&file, started) {
        tracing::warn!(container = %id, error = error.chain(), "the start could not be recorded");
    }
    container.set_init_pid(started.init_pid);
    let started_at = started.at_ns;
    container.advance(State::Running { started_at })
}
