//! ListImages: from memory alone.

use std::sync::Arc;

use corten_proto::cri;

use super::views;
use crate::{context::Context, error::Result};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ListImagesRequest,
) -> Result<cri::ListImagesResponse> {
    let wanted = request
        .filter
        .and_then(|filter| filter.image)
        .map(|spec| spec.image)
        .unwrap_or_default();
    let images = if wanted.is_empty() {
        cx.images.list()
    } else {
        cx.images.resolve(&wanted).into_iter().collect()
    };
    Ok(cri::ListImagesResponse {
        images: images.iter().map(|image| views::image(image)).collect(),
    })
}
