//! ContainerStatus: from memory alone.
//!
//! Rule (CRI, ContainerStatus): a container that does not exist is `NotFound`.

use std::{collections::BTreeMap, sync::Arc};

use corten_proto::cri;
use serde_json::json;

use super::views;
use crate::{container::Container, context::Context, error::Result};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ContainerStatusRequest,
) -> Result<cri::ContainerStatusResponse> {
    let container = cx.store.container(&request.container_id)?;
    container.set_known();
    Ok(cri::ContainerStatusResponse {
        status: Some(views::container_status(&container)),
        info: if request.verbose {
            info(cx, &container)
        } else {
            BTreeMap::new()
        },
    })
}

fn info(cx: &Context, container: &Container) -> BTreeMap<String, String> {
    let record = &container.record;
    let info = json!({
        "sandboxID": record.pod_id,
        "pid": container.init_pid(),
        "cgroup": record.cgroup,
        "layers": record.layers,
        "stateDir": corten_proto::layout::container_state(&cx.config.state, &record.id),
    });
    BTreeMap::from([("info".into(), info.to_string())])
}
