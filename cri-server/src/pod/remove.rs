//! Removing a pod: stop, containers, everything else, record.

use std::sync::Arc;

use corten_proto::layout;

use super::{Pod, stop};
use crate::{container, context::Context, error::Result, record_file};

/// Removes `pod` and everything in it.
pub(crate) async fn remove(cx: &Arc<Context>, pod: &Pod) -> Result<()> {
    stop::end(cx, pod).await?;
    let _alone = pod.have_alone().await;
    if pod.is_removed() {
        return Ok(());
    }
    stop::finish(cx, pod).await?;
    for container in cx.store.containers_of(&pod.record.id) {
        container::remove::remove(cx, &container).await?;
    }
    cx.undo.run(&pod.record.resources).await?;
    record_file::remove(&layout::pod_record(&cx.config.root, &pod.record.id))?;
    pod.set_removed();
    cx.store.remove_pod(&pod.record.id);
    tracing::info!(sandbox = %pod.record.id, name = pod.name, "pod sandbox is removed");
    Ok(())
}
