//! InspectImage: `corten image inspect`.

use std::sync::Arc;

use corten_proto::admin::{
    InspectImageRequest, InspectImageResponse, inspect_image_response::Layer,
};

use crate::{
    context::Context,
    error::{Error, Result},
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: InspectImageRequest,
) -> Result<InspectImageResponse> {
    let reference = request.image;
    let found = match cx.images.inspect(&reference).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            return Err(Error::Image {
                source: corten_image::Error::NotHere(reference.clone()),
                reference,
            });
        }
        Err(source) => return Err(Error::Image { reference, source }),
    };
    let containers = cx.store.containers();
    let users = containers
        .iter()
        .filter(|container| container.uses_image(&found.image.id));
    let layers = found.layers.into_iter().map(|layer| Layer {
        name: layer.name,
        diff_id: layer.diff_id,
        bytes: layer.bytes,
        images: layer.images,
    });
    let (manifest_digest, manifest) = found.manifest.unwrap_or_default();
    Ok(InspectImageResponse {
        id: found.image.id.clone(),
        repo_tags: found.image.repo_tags.clone(),
        repo_digests: found.image.repo_digests.clone(),
        size: found.image.size,
        pinned: found.image.pinned,
        containers: users.map(|container| container.record.id.clone()).collect(),
        layers: layers.collect(),
        manifest_digest,
        manifest,
        config: found.config,
    })
}
