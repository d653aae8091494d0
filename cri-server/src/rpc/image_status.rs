//! ImageStatus: from memory alone.
//!
//! Rule (CRI, ImageStatus): an image that is not there is an answer without image, and no error.

use std::{collections::BTreeMap, sync::Arc};

use corten_image::Image;
use corten_proto::cri;
use serde_json::{Value, json};

use super::{reference, views};
use crate::{context::Context, error::Result};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ImageStatusRequest,
) -> Result<cri::ImageStatusResponse> {
    let reference = reference(request.image.as_ref())?;
    let image = cx.images.resolve(&reference);
    let info = match &image {
        Some(image) if request.verbose => {
            BTreeMap::from([("info".into(), info(image).to_string())])
        }
        _ => BTreeMap::new(),
    };
    Ok(cri::ImageStatusResponse {
        image: image.map(|image| views::image(&image)),
        info,
    })
}

/// As `crictl inspecti` prints it.
fn info(image: &Image) -> Value {
    let config = json!({
        "Entrypoint": image.config.entrypoint,
        "Cmd": image.config.cmd,
        "Env": image.config.env,
        "User": image.config.user,
        "WorkingDir": image.config.working_dir,
        "StopSignal": image.config.stop_signal,
        "Labels": image.config.labels,
    });
    json!({ "imageSpec": { "config": config }, "layers": image.layers })
}
