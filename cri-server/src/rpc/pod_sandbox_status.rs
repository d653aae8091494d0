//! PodSandboxStatus: from memory alone.
//!
//! Rule (CRI, PodSandboxStatus): a pod that does not exist is `NotFound`, or the kubelet's pod collection tries for ever.

use std::{collections::BTreeMap, sync::Arc};

use corten_proto::cri;
use serde_json::{Value, json};

use super::views;
use crate::{context::Context, error::Result, pod::Pod};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::PodSandboxStatusRequest,
) -> Result<cri::PodSandboxStatusResponse> {
    let pod = cx.store.pod(&request.pod_sandbox_id)?;
    pod.set_known();
    Ok(cri::PodSandboxStatusResponse {
        status: Some(views::pod_status(&pod)),
        info: if request.verbose {
            info(cx, &pod)
        } else {
            BTreeMap::new()
        },
        ..cri::PodSandboxStatusResponse::default()
    })
}

fn info(cx: &Context, pod: &Pod) -> BTreeMap<String, String> {
    let network: Value = serde_json::from_slice(&pod.record.cni_result).unwrap_or_default();
    let info = json!({
        "cgroupParent": pod.record.cgroup_parent,
        "cniResult": network,
        "networkNamespace": pod.netns(),
        "stateDir": corten_proto::layout::pod_state(&cx.config.state, &pod.record.id),
    });
    let config = json!({ "stateDir": cx.config.state, "rootDir": cx.config.root });
    BTreeMap::from([
        ("info".into(), info.to_string()),
        ("config".into(), config.to_string()),
    ])
}
