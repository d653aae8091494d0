//! The private service of the command line; `proto/admin/v1/admin.proto`.

use std::{path::PathBuf, sync::Arc};

use corten_proto::admin::{LoadImagesRequest, LoadImagesResponse, admin_server::Admin};
use tonic::{Request, Response, Status};

use crate::{context::Context, error::Error};

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) cx: Arc<Context>,
}

#[tonic::async_trait]
impl Admin for Server {
    async fn load_images(
        &self,
        request: Request<LoadImagesRequest>,
    ) -> Result<Response<LoadImagesResponse>, Status> {
        let archive = PathBuf::from(request.into_inner().path);
        if !archive.is_absolute() {
            return Err(Error::invalid("path", "want an absolute path").into());
        }
        let loaded = self.cx.images.load(&archive).await;
        let images = loaded.map_err(|source| {
            let error = Error::Image {
                reference: archive.display().to_string(),
                source,
            };
            tracing::info!(error = error.chain(), "loading images failed");
            Status::from(error)
        })?;
        Ok(Response::new(LoadImagesResponse { images }))
    }
}
