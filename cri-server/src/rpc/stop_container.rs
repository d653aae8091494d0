//! StopContainer.
//!
//! Rule (CRI, StopContainer): idempotent, and a container that does not exist is stopped. The stop outlives its caller, and
//! a later call with less time brings the kill forward: both are kept by the shim, so that this is not an operation.

use std::{sync::Arc, time::Duration};

use corten_proto::cri;

use crate::{
    container::{State, stop},
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
    if container.state() == State::Created {
        stop::end(cx, &container).await?;
    } else {
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        stop::stop(cx, &container, grace).await?;
    }
    Ok(cri::StopContainerResponse {})
}
