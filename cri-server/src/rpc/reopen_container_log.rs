//! ReopenContainerLog.
//!
//! Rule (CRI, ReopenContainerLog): the new file is there on return; a container that does not run is an error.

use std::sync::Arc;

use corten_proto::cri;

use crate::{
    context::Context,
    error::{Error, Result},
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ReopenContainerLogRequest,
) -> Result<cri::ReopenContainerLogResponse> {
    let container = cx.store.container(&request.container_id)?;
    container.set_known();
    container.settled().await;
    match container.running_shim()?.reopen_log().await {
        Ok(()) => Ok(cri::ReopenContainerLogResponse {}),
        Err(source) if container.has_ended_before(&source).await => {
            Err(container.in_state("exited", "it must be running"))
        }
        Err(source) => {
            let doing = format!("reopen the log {}", container.record.log_path);
            Err(Error::Shim { doing, source })
        }
    }
}
