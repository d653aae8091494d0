//! StreamImages: as ListImages, in messages that stay small however many images there are.
//!
//! Rule (CRI, StreamImages): a snapshot, each image once, at least one in each message.

use std::sync::Arc;

use corten_proto::cri;

use super::list_images;
use crate::{context::Context, error::Result};

/// An image with all of its names takes a few KiB at most.
const PER_MESSAGE: usize = 100;

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::StreamImagesRequest,
) -> Result<Vec<cri::StreamImagesResponse>> {
    let list = cri::ListImagesRequest {
        filter: request.filter,
    };
    let images = list_images::handle(cx, list).await?.images;
    let messages = images.chunks(PER_MESSAGE);
    Ok(messages
        .map(|images| cri::StreamImagesResponse {
            images: images.to_vec(),
        })
        .collect())
}
