//! Exec: a URL for a session of `streaming/exec.rs`.
//!
//! Rule (CRI, ExecRequest): one of stdin, stdout and stderr is asked for, and not stderr with tty.

use std::sync::Arc;

use corten_proto::cri;

use crate::{
    context::Context,
    error::{Error, Result},
    spec, streaming,
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    mut request: cri::ExecRequest,
) -> Result<cri::ExecResponse> {
    if request.cmd.is_empty() {
        return Err(Error::invalid("cmd", "is empty"));
    }
    spec::check_command(&request.cmd)?;
    streaming::Wanted::from(&request).check()?;
    let container = cx.store.container(&request.container_id)?;
    container.set_known();
    container.settled().await;
    container.running_shim()?;
    request.container_id.clone_from(&container.record.id);
    let url = cx.tokens.url(streaming::Request::Exec(request))?;
    Ok(cri::ExecResponse { url })
}
