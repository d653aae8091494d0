//! VerifyImages: `corten image verify`.

use std::sync::Arc;

use corten_proto::admin::{
    VerifyImagesRequest, VerifyImagesResponse,
    verify_images_response::{Fault, Repair},
};

use crate::{
    context::Context,
    error::{Error, Result},
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: VerifyImagesRequest,
) -> Result<VerifyImagesResponse> {
    let verified = cx.images.verify(request.repair).await;
    let found = verified.map_err(|source| Error::Image {
        reference: "image store".into(),
        source,
    })?;
    let faults = found.faults.into_iter().map(|fault| Fault {
        layer: fault.layer,
        diff_id: fault.diff_id,
        images: fault.images,
        differences: fault.differences,
        more: fault.more,
    });
    let repairs = found.repairs.into_iter().map(|repair| Repair {
        image: repair.image,
        error: repair.error.unwrap_or_default(),
    });
    Ok(VerifyImagesResponse {
        layers: found.layers,
        bytes: found.bytes,
        unchecked: found.unchecked,
        faults: faults.collect(),
        repairs: repairs.collect(),
    })
}
