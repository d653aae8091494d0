//! CollectImages: `corten image gc`.

use std::sync::Arc;

use corten_image::Image;
use corten_proto::admin::{CollectImagesRequest, CollectImagesResponse};

use crate::{
    context::Context,
    error::{Error, Result},
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: CollectImagesRequest,
) -> Result<CollectImagesResponse> {
    let unused = unused(cx);
    let ids: Vec<_> = unused.iter().map(|image| image.id.clone()).collect();
    let bytes = cx.images.freed_by(&ids);
    if !request.dry_run {
        for reference in ids {
            let removed = cx.images.remove(&reference).await;
            removed.map_err(|source| Error::Image { reference, source })?;
        }
        // The answer comes when the disk is free again.
        cx.images.collect_garbage().await;
    }
    Ok(CollectImagesResponse {
        images: unused.iter().map(|image| name(image)).collect(),
        bytes,
    })
}

/// Images that are neither pinned nor of any container.
pub(super) fn unused(cx: &Context) -> Vec<Arc<Image>> {
    let containers = cx.store.containers();
    let in_use = |id: &str| containers.iter().any(|container| container.uses_image(id));
    let mut images = cx.images.list();
    images.retain(|image| !image.pinned && !in_use(&image.id));
    images
}

fn name(image: &Image) -> String {
    let mut names = image.repo_tags.iter().chain(&image.repo_digests);
    names.next().unwrap_or(&image.id).clone()
}
