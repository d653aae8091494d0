//! Ending a pod: its containers first, then everything that runs or is attached. Its record and its directory stay until
//! it is removed.

use std::sync::Arc;

use corten_proto::{
    layout,
    record::{Resource, resource::Kind},
};

use super::Pod;
use crate::{container, context::Context, error::Result, record_file};

/// Stops `pod`; stopping it again does what is still to be done.
pub(crate) async fn stop(cx: &Arc<Context>, pod: &Pod) -> Result<()> {
    end(cx, pod).await?;
    let _alone = pod.have_alone().await;
    finish(cx, pod).await
}

/// Ends what runs, and what is being made or started and would be waited for.
pub(super) async fn end(cx: &Arc<Context>, pod: &Pod) -> Result<()> {
    pod.set_stopped();
    container::stop::kill_all(cx, &pod.record.id).await
}

/// Does the rest, for a caller that has the pod alone. One that was removed meanwhile is stopped.
pub(super) async fn finish(cx: &Arc<Context>, pod: &Pod) -> Result<()> {
    if pod.is_removed() {
        return Ok(());
    }
    record_file::write(
        &layout::pod_record(&cx.config.root, &pod.record.id),
        &pod.to_record(),
    )?;
    // Made before the stop was heard of.
    container::stop::kill_all(cx, &pod.record.id).await?;
    let live: Vec<Resource> = pod
        .record
        .resources
        .iter()
        .filter(|resource| ends_with_stop(resource))
        .cloned()
        .collect();
    cx.undo.run(&live).await?;
    tracing::info!(sandbox = %pod.record.id, name = pod.name, "pod sandbox is stopped");
    Ok(())
}

fn ends_with_stop(resource: &Resource) -> bool {
    matches!(
        resource.kind,
        Some(
            Kind::Network(_) | Kind::Pin(_) | Kind::PidPin(_) | Kind::UserPin(_) | Kind::Cgroup(_)
        )
    )
}
