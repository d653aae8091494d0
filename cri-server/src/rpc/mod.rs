//! The gRPC edge: one file an RPC, and what all of them have in common.
//!
//! An RPC that has no file answers `Unimplemented`. A mutating one runs as an operation (`operation/`), so that it goes on
//! when its client leaves.

mod attach;
mod container_stats;
mod container_status;
mod create_container;
mod exec;
mod exec_sync;
mod filter;
mod image_fs_info;
mod image_status;
mod list_container_stats;
mod list_containers;
mod list_images;
mod list_pod_sandbox;
mod list_pod_sandbox_stats;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod pull_image;
mod remove_container;
mod remove_image;
mod remove_pod_sandbox;
mod reopen_container_log;
mod run_pod_sandbox;
mod runtime_config;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod stream_container_stats;
mod stream_images;
mod stream_pod_sandbox_stats;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod version;
mod views;

use std::{future::Future, sync::Arc, time::Instant};

use corten_proto::cri::{
    self, image_service_server::ImageService, runtime_service_server::RuntimeService,
};
use prost::Message;
pub(crate) use pull_image::handle as pull_image;
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Response, Status, codegen::BoxStream};

use crate::{context::Context, error::Error, operation::Hash};

/// Both services of the CRI.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) cx: Arc<Context>,
}

/// Runs one RPC: logs a failure once, with all its causes, and turns it into a status.
async fn serve<T>(
    name: &'static str,
    rpc: impl Future<Output = Result<T, Error>>,
) -> Result<Response<T>, Status> {
    let start = Instant::now();
    let result = rpc.await;
    let elapsed_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    match result {
        Ok(reply) => {
            tracing::debug!(rpc = name, elapsed_us, "rpc");
            Ok(Response::new(reply))
        }
        Err(error) => {
            let (code, text) = (error.code(), error.chain());
            if matches!(code, Code::Internal | Code::Unknown) {
                tracing::error!(rpc = name, elapsed_us, ?code, error = text, "rpc failed");
            } else {
                tracing::info!(rpc = name, elapsed_us, ?code, error = text, "rpc failed");
            }
            Err(error.into())
        }
    }
}

/// The image that an RPC of the ImageService is about.
fn reference(image: Option<&cri::ImageSpec>) -> Result<String, Error> {
    match image {
        Some(spec) if !spec.image.is_empty() => Ok(spec.image.clone()),
        _ => Err(Error::invalid("image.image", "is empty")),
    }
}

/// What tells equal requests from others. Maps are ordered, so that equal requests have equal bytes.
fn hash(request: &impl Message) -> Hash {
    Sha256::digest(request.encode_to_vec()).into()
}

/// Implements a service's trait by the handlers of this folder. Those after `streams` answer with many messages.
macro_rules! handlers {
    ($service:ident {
        $($name:ident($request:ident) -> $reply:ident;)*
    } $(streams { $($stream:ident($stream_request:ident) -> $item:ident;)* })?) => {
        #[tonic::async_trait]
        impl $service for Server {
            $(
                async fn $name(
                    &self,
                    request: Request<cri::$request>,
                ) -> Result<Response<cri::$reply>, Status> {
                    serve(stringify!($name), $name::handle(&self.cx, request.into_inner())).await
                }
            )*
            $($(
                async fn $stream(
                    &self,
                    request: Request<cri::$stream_request>,
                ) -> Result<Response<BoxStream<cri::$item>>, Status> {
                    let messages = $stream::handle(&self.cx, request.into_inner());
                    Ok(serve(stringify!($stream), messages).await?.map(|messages| {
                        Box::pin(tokio_stream::iter(messages.into_iter().map(Ok))) as BoxStream<_>
                    }))
                }
            )*)?
        }
    };
}

handlers!(RuntimeService {
    version(VersionRequest) -> VersionResponse;
    status(StatusRequest) -> StatusResponse;
    runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
    update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    create_container(CreateContainerRequest) -> CreateContainerResponse;
    start_container(StartContainerRequest) -> StartContainerResponse;
    stop_container(StopContainerRequest) -> StopContainerResponse;
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    list_containers(ListContainersRequest) -> ListContainersResponse;
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    exec(ExecRequest) -> ExecResponse;
    attach(AttachRequest) -> AttachResponse;
    port_forward(PortForwardRequest) -> PortForwardResponse;
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
} streams {
    stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse;
    stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse;
});

handlers!(ImageService {
    list_images(ListImagesRequest) -> ListImagesResponse;
    image_status(ImageStatusRequest) -> ImageStatusResponse;
    pull_image(PullImageRequest) -> PullImageResponse;
    remove_image(RemoveImageRequest) -> RemoveImageResponse;
    image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
} streams {
    stream_images(StreamImagesRequest) -> StreamImagesResponse;
});
