//! SaveImages: `corten image save`.

use std::sync::Arc;

use corten_proto::admin::{SaveImagesRequest, SaveImagesResponse};

use super::{about, absolute};
use crate::{
    context::Context,
    error::{Error, Result},
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: SaveImagesRequest,
) -> Result<SaveImagesResponse> {
    let archive = absolute(request.path)?;
    if request.images.is_empty() {
        return Err(Error::invalid("images", "want at least one"));
    }
    let saved = cx.images.save(&request.images, &archive).await;
    saved.map_err(about(&archive))?;
    Ok(SaveImagesResponse {})
}
