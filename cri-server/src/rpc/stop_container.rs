//! StopContainer.
//!
//! Rule (CRI, StopContainer): idempotent, and a container that does not exist is stopped. A later call with less time brings
//! the kill forward, so that this waits for no other operation: the shim keeps the deadline. The stop outlives its caller.

use std::{sync::Arc, time::Duration};

use corten_proto::cri;

use crate::{
    container::stop,
    context::Context,
    error::{Error, Result},
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::StopContainerRequest,
) -> Result<cri::StopContainerResponse> {
    let container = match cx.store.container(&request.container_id) {
        Ok(container) => container,
        Err(Error::NotFound { .. }) => return Ok(cri::StopContainerResponse {}),
        Err(error) => return Err(error),
    };
    container.set_known();
    let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
    let cx = Arc::clone(cx);
    let stopping = tokio::spawn(async move { stop::stop(&cx, &container, grace).await });
    stopping.await.unwrap_or(Err(Error::Panicked))?;
    Ok(cri::StopContainerResponse {})
}
