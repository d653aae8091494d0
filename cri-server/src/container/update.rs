//! New limits for a container. Its shim changes the cgroup; the record keeps them for the next daemon.

use corten_proto::{cri, shim};

use super::{Container, State};
use crate::{
    context::Context,
    error::{Error, Result},
    spec,
};

/// Changes the limits that `asked` names: all, or after an error none. One that has ended needs none.
pub(crate) async fn update(
    cx: &Context,
    container: &Container,
    asked: &cri::LinuxContainerResources,
) -> Result<()> {
    container.settled().await;
    let _turn = container.turn.lock().await;
    if container.is_exited() {
        return Ok(());
    }
    let now = container.limits().unwrap_or_default();
    let (limits, update) = spec::update(&cx.host, &now, asked)?;
    if apply(container, update).await? {
        container.set_limits(Some(limits));
        if let Err(error) = container.save(cx) {
            // They are in force. After a restart the old ones are told, and whoever wants the new ones asks again.
            tracing::warn!(container = %container.record.id, error = error.chain(), "new limits could not be recorded");
        }
    }
    Ok(())
}

/// Has the shim do it. False when the container has ended meanwhile.
async fn apply(container: &Container, update: shim::Update) -> Result<bool> {
    let Some(client) = container.shim() else {
        return match container.state() {
            State::Exited { .. } => Ok(false),
            _ => Err(container.in_state("lost", "its shim is gone; make a new one")),
        };
    };
    match client.update(update).await {
        Ok(warnings) => {
            for warning in warnings {
                tracing::warn!(container = %container.record.id, warning, "the host does not allow everything that the update asks for");
            }
            Ok(true)
        }
        Err(source) => {
            if container.has_ended_before(&source).await || container.is_exited() {
                return Ok(false);
            }
            let doing = format!("update container {}", container.record.id);
            Err(Error::Shim { doing, source })
        }
    }
}
