//! PortForward: a URL for a session of `streaming/port_forward.rs`.
//!
//! The ports of the request mean nothing: those that are forwarded are named in the session.

use std::sync::Arc;

use corten_proto::cri;

use crate::{context::Context, error::Result, streaming};

pub(super) async fn handle(
    cx: &Arc<Context>,
    mut request: cri::PortForwardRequest,
) -> Result<cri::PortForwardResponse> {
    let pod = cx.store.pod(&request.pod_sandbox_id)?;
    pod.set_known();
    pod.check_ready()?;
    request.pod_sandbox_id.clone_from(&pod.record.id);
    let url = cx.tokens.url(streaming::Request::PortForward(request))?;
    Ok(cri::PortForwardResponse { url })
}
