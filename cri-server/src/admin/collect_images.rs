//! CollectImages: `corten image gc`.

use std::{collections::HashSet, sync::Arc};

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
    let in_use: HashSet<_> = containers
        .iter()
        .map(|container| container.record.image_id.as_str())
        .collect();
    let mut images = cx.images.list();
    images.retain(|image| !image.pinned && !in_use.contains(image.id.as_str()));
    images
}

fn name(image: &Image) -> String {
    let mut names = image.repo_tags.iter().chain(&image.repo_digests);
    names.next().unwrap_or(&image.id).clone()
}
