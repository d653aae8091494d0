//! LoadImages: `corten image load`.

use std::sync::Arc;

use corten_proto::admin::{LoadImagesRequest, LoadImagesResponse};

use super::{about, absolute};
use crate::{context::Context, error::Result};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: LoadImagesRequest,
) -> Result<LoadImagesResponse> {
    let archive = absolute(request.path)?;
    let images = cx.images.load(&archive).await.map_err(about(&archive))?;
    Ok(LoadImagesResponse { images })
}
