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
        status: Some(views::container_status(&container, image(cx, &container))),
        info: if request.verbose {
            info(cx, &container)
        } else {
            BTreeMap::new()
        },
    })
}

/// The kubelet asks by the image's id, and people want to see a name. The image may have been removed since.
fn image(cx: &Context, container: &Container) -> Option<cri::ImageSpec> {
    let mut spec = container.config().image.clone()?;
    let wanted = [&*spec.image, &*spec.user_specified_image];
    let name = match cx.images.resolve(&container.record.image_id) {
        Some(image) => Some(image.name(&wanted)),
        None if spec.image == container.record.image_id => Some(container.record.image_ref.clone()),
        None => None,
    };
    if let Some(name) = name {
        spec.image = name;
    }
    Some(spec)
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
