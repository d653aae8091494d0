//! PullImage.
//!
//! Rule (CRI, PullImage): `image_ref` is the image's id, as every other RPC names it. A pull of one reference with the same
//! credentials is joined; it ends with its last caller's patience only when nothing comes any more from the registry.

use std::sync::Arc;

use corten_image::Auth;
use corten_proto::cri;

use super::{hash, reference};
use crate::{
    context::Context,
    error::{Error, Result},
};

pub(crate) async fn handle(
    cx: &Arc<Context>,
    request: cri::PullImageRequest,
) -> Result<cri::PullImageResponse> {
    let reference = reference(request.image.as_ref())?;
    // The pod that a pull is for is no part of what is pulled.
    let hash = hash(&cri::PullImageRequest {
        sandbox_config: None,
        ..request.clone()
    });
    let (images, key, auth) = (
        cx.images.clone(),
        format!("pull {reference}"),
        request.auth.map(auth),
    );
    let work_cx = Arc::clone(cx);
    let work = move || async move {
        let _turn = work_cx.pulls.enter().await?;
        match images.pull(&reference, auth).await {
            Ok(image) => {
                tracing::info!(
                    image = image.id,
                    reference,
                    size = image.size,
                    "image is pulled"
                );
                Ok(image.id.clone())
            }
            Err(source) => Err(Error::Image { reference, source }),
        }
    };
    Ok(cri::PullImageResponse {
        image_ref: cx.operations.run(key, hash, work).await?,
    })
}

fn auth(auth: cri::AuthConfig) -> Auth {
    Auth {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}
