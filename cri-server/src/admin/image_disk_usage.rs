//! ImageDiskUsage: `corten image df`.

use std::sync::Arc;

use corten_proto::admin::ImageDiskUsageResponse;

use super::collect_images::unused;
use crate::{
    context::Context,
    error::{Error, Result},
};

pub(super) async fn handle(cx: &Arc<Context>) -> Result<ImageDiskUsageResponse> {
    let usage = cx
        .images
        .disk_usage()
        .await
        .map_err(|source| Error::Image {
            reference: "image store".into(),
            source,
        })?;
    let unused: Vec<_> = unused(cx).iter().map(|image| image.id.clone()).collect();
    Ok(ImageDiskUsageResponse {
        images: usage.images,
        layers: usage.layers,
        bytes: usage.bytes,
        layers_without_image: usage.layers_without_image,
        bytes_without_image: usage.bytes_without_image,
        partial_bytes: usage.partial_bytes,
        collectable_bytes: cx.images.freed_by(&unused),
    })
}
