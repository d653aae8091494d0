//! RunPodSandbox.
//!
//! Rule (CRI, RunPodSandbox): success means that the sandbox is ready.

use std::sync::Arc;

use corten_proto::cri;

use super::hash;
use crate::{
    context::Context,
    error::{Error, Result},
    pod::{self, run},
    spec,
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::RunPodSandboxRequest,
) -> Result<cri::RunPodSandboxResponse> {
    let key = check(cx, &request)?;
    let hash = hash(&request);
    let work_cx = Arc::clone(cx);
    let id = cx
        .operations
        .run(key, hash, move || async move {
            let config = request.config.as_ref();
            let store = &work_cx.store;
            let room = config.map(|config| store.room_for_pod(&run::name_of(config), config));
            let _room = room.transpose()?;
            let _turn = work_cx.creations.enter().await?;
            run::run(Arc::clone(&work_cx), request, hash).await
        })
        .await?;
    Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id })
}

/// Returns the operation's key.
fn check(cx: &Context, request: &cri::RunPodSandboxRequest) -> Result<String> {
    let config = request
        .config
        .as_ref()
        .ok_or_else(|| Error::invalid("config", "is missing"))?;
    spec::validate_pod(config)?;
    spec::cgroup_parent(config, cx.config.cgroup_driver)?;
    let handler = pod::handler(&cx.config, &request.runtime_handler)?;
    if handler.oci().is_some() && spec::user_namespace(config)?.is_some() {
        let reason = format!(
            "runtime handler {:?} has no user namespaces: leave hostUsers out, or take another RuntimeClass",
            request.runtime_handler
        );
        return Err(Error::invalid(spec::user_namespace_field(), reason));
    }
    Ok(run::key(config))
}
