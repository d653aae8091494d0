//! Running a container's program.

use std::time::Duration;

use corten_proto::shim::{Failure, FailureKind};
use tokio::time::timeout;

use super::{Container, State};
use crate::error::{Error, Result};

/// Between a start that was refused and the container's end.
const END: Duration = Duration::from_secs(5);

/// Lets the container's init run its program. One that cannot be run ends the container. One that runs already, whose start
/// was answered to nobody, is the answer to a retry.
pub(crate) async fn start(container: &Container) -> Result<()> {
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
        Err(source) => {
            let is_refused = |failure: &Failure| failure.kind() != FailureKind::FailurePhase;
            if source.failure().is_some_and(is_refused) {
                // The shim tells the end right after; a status that is asked for now should have it.
                let _ = timeout(END, container.exited()).await;
            }
            let doing = format!("start container {}", container.record.id);
            return Err(Error::Shim { doing, source });
        }
    };
    // One that ended at once is not set back. Nothing is recorded: after a restart the shim tells it again.
    container.set_init_pid(started.init_pid);
    container.advance(State::Running {
        started_at: started.at_ns,
    });
    tracing::info!(container = %container.record.id, name = container.name, "container runs");
    Ok(())
}
