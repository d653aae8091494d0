//! CreateContainer.
//!
//! Rule (CRI, CreateContainer): the container's program does not run yet.

use std::sync::Arc;

use corten_proto::cri;

use super::hash;
use crate::{
    container::create,
    context::Context,
    error::{Error, Result},
    spec,
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::CreateContainerRequest,
) -> Result<cri::CreateContainerResponse> {
    let pod = cx.store.pod(&request.pod_sandbox_id)?;
    pod.set_known();
    let hash = hash(&request);
    let config = request
        .config
        .ok_or_else(|| Error::invalid("config", "is missing"))?;
    spec::validate_container(&config, pod.config())?;
    let (key, work_cx) = (create::key(&pod, &config), Arc::clone(cx));
    let id = cx
        .operations
        .run(key, hash, move || async move {
            let (store, pod_id) = (&work_cx.store, &pod.record.id);
            let _room = store.room_for_container(pod_id, &create::name_of(&config), &config)?;
            let _turn = work_cx.creations.enter().await?;
            create::create(Arc::clone(&work_cx), pod, config, hash).await
        })
        .await?;
    Ok(cri::CreateContainerResponse { container_id: id })
}
