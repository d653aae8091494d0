//! Removing a container: end it, undo what it had, forget it. Its log belongs to the kubelet and stays.

use std::sync::Arc;

use corten_proto::record::{Resource, resource::Kind};

use super::{Container, stop};
use crate::{context::Context, error::Result};

/// Removes `container`, whatever its state.
pub(crate) async fn remove(cx: &Arc<Context>, container: &Arc<Container>) -> Result<()> {
    // Not in turn: it is what ends a start that hangs.
    stop::end(cx, container).await?;
    let _turn = container.turn.lock().await;
    cx.undo.run(&left(container)).await?;
    cx.store.remove_container(&container.record.id);
    tracing::info!(container = %container.record.id, name = container.name, "container is removed");
    Ok(())
}

/// What is left of an exited container. Its record lies in one of the directories. Its shim has ended by itself, mostly, so
/// that nobody has to look for it.
fn left(container: &Container) -> Vec<Resource> {
    let resources = container.record.resources.iter();
    resources
        .filter(|resource| {
            container.shim_may_live() || !matches!(resource.kind, Some(Kind::Shim(_)))
        })
        .cloned()
        .collect()
}
