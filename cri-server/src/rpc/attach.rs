//! Attach: a URL for a session of `streaming/attach.rs`.
//!
//! Rule (CRI, AttachRequest): one of stdin, stdout and stderr is asked for, and not stderr with tty.

use std::sync::Arc;

use corten_proto::cri;

use crate::{context::Context, error::Result, streaming};

pub(super) async fn handle(
    cx: &Arc<Context>,
    mut request: cri::AttachRequest,
) -> Result<cri::AttachResponse> {
    streaming::Wanted::from(&request).check()?;
    let container = cx.store.container(&request.container_id)?;
    container.set_known();
    container.settled().await;
    container.running_shim()?;
    request.container_id.clone_from(&container.record.id);
    let url = cx.tokens.url(streaming::Request::Attach(request))?;
    Ok(cri::AttachResponse { url })
}
