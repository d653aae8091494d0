//! Running a container's program.

use std::sync::Arc;

use corten_proto::shim::{Exited, FailureKind};

use super::{Container, State, exit};
use crate::{
    clock,
    context::Context,
    error::{Error, Result},
    shim,
};

/// The exit code of a program that could not be run, as containerd has it.
const NOT_RUN: i32 = 128;
/// The kubelet shows it as the container's reason.
const REASON: &str = "StartError";

/// Lets the container's init run its program. One that cannot be run ends the container. One that runs already, whose start
/// was answered to nobody, is the answer to a retry.
pub(crate) async fn start(cx: &Arc<Context>, container: &Arc<Container>) -> Result<()> {
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
    match client.start().await {
        Ok(()) => {
            container.advance(State::Running {
                started_at: clock::unix_nanos(),
            });
            container.save(cx)?;
            tracing::info!(container = %container.record.id, name = container.name, "container runs");
            Ok(())
        }
        Err(source) => {
            if let Some(failure) = source
                .failure()
                .filter(|failure| failure.kind() == FailureKind::FailureExec)
            {
                let message = shim::describe(failure);
                let exit = Exited {
                    code: NOT_RUN,
                    at_ns: clock::unix_nanos(),
                    oom_killed: false,
                    message,
                };
                exit::set_exited(cx, container, exit, REASON);
            }
            Err(Error::Shim {
                doing: format!("start container {}", container.record.id),
                source,
            })
        }
    }
}
