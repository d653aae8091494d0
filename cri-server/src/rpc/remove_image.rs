//! RemoveImage.
//!
//! Rule (CRI, RemoveImage): takes all names of the image; idempotent, and an image that does not exist is removed.
//! Containers keep the layers that they use.

use std::sync::Arc;

use corten_proto::cri;

use super::{hash, reference};
use crate::{
    context::Context,
    error::{Error, Result},
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::RemoveImageRequest,
) -> Result<cri::RemoveImageResponse> {
    let reference = reference(request.image.as_ref())?;
    let (images, key) = (cx.images.clone(), format!("remove image {reference}"));
    let work = move || async move {
        match images.remove(&reference).await {
            Ok(()) => Ok(String::new()),
            Err(source) => Err(Error::Image { reference, source }),
        }
    };
    cx.operations.run(key, hash(&request), work).await?;
    Ok(cri::RemoveImageResponse {})
}
