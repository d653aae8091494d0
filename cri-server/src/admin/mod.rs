//! The private service of the command line; `proto/admin/v1/admin.proto`. One file for each RPC.

mod collect_images;
mod image_disk_usage;
mod inspect_image;
mod load_images;
mod pull_image;
mod save_images;
mod verify_images;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use corten_proto::admin::{self, admin_server::Admin};
use tonic::{Request, Response, Status, codegen::BoxStream};

use crate::{
    context::Context,
    error::{Error, Result},
};

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) cx: Arc<Context>,
}

/// Answers, and keeps a line of what failed.
fn answer<T>(name: &'static str, result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| {
        tracing::info!(command = name, error = error.chain(), "command failed");
        error.into()
    })
}

#[tonic::async_trait]
impl Admin for Server {
    async fn pull_image(
        &self,
        request: Request<admin::PullImageRequest>,
    ) -> Result<Response<BoxStream<admin::PullImageProgress>>, Status> {
        let progress = pull_image::handle(&self.cx, request.into_inner());
        Ok(Response::new(Box::pin(progress)))
    }

    async fn load_images(
        &self,
        request: Request<admin::LoadImagesRequest>,
    ) -> Result<Response<admin::LoadImagesResponse>, Status> {
        let loaded = load_images::handle(&self.cx, request.into_inner()).await;
        answer("image load", loaded)
    }

    async fn save_images(
        &self,
        request: Request<admin::SaveImagesRequest>,
    ) -> Result<Response<admin::SaveImagesResponse>, Status> {
        let saved = save_images::handle(&self.cx, request.into_inner()).await;
        answer("image save", saved)
    }

    async fn inspect_image(
        &self,
        request: Request<admin::InspectImageRequest>,
    ) -> Result<Response<admin::InspectImageResponse>, Status> {
        let found = inspect_image::handle(&self.cx, request.into_inner()).await;
        answer("image inspect", found)
    }

    async fn verify_images(
        &self,
        request: Request<admin::VerifyImagesRequest>,
    ) -> Result<Response<admin::VerifyImagesResponse>, Status> {
        let found = verify_images::handle(&self.cx, request.into_inner()).await;
        answer("image verify", found)
    }

    async fn collect_images(
        &self,
        request: Request<admin::CollectImagesRequest>,
    ) -> Result<Response<admin::CollectImagesResponse>, Status> {
        let collected = collect_images::handle(&self.cx, request.into_inner()).await;
        answer("image gc", collected)
    }

    async fn image_disk_usage(
        &self,
        _: Request<admin::ImageDiskUsageRequest>,
    ) -> Result<Response<admin::ImageDiskUsageResponse>, Status> {
        answer("image df", image_disk_usage::handle(&self.cx).await)
    }
}

fn absolute(path: String) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Error::invalid("path", "want an absolute path")),
    }
}

/// For errors about an archive.
fn about(path: &Path) -> impl FnOnce(corten_image::Error) -> Error {
    let reference = path.display().to_string();
    |source| Error::Image { reference, source }
}
