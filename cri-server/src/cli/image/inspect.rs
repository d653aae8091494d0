//! `corten image inspect`.

use corten_proto::admin::{
    InspectImageRequest, InspectImageResponse, admin_client::AdminClient,
    inspect_image_response::Layer,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::Report;
use crate::cli::client::Error;

/// JSON in both forms: it is read by people and by jq.
pub(super) async fn run(channel: Channel, image: String) -> Result<Report, Error> {
    let request = InspectImageRequest { image };
    let reply = AdminClient::new(channel).inspect_image(request).await?;
    let view = view(&reply.into_inner());
    Ok(Report::good(format!("{view:#}\n"), view))
}

fn view(image: &InspectImageResponse) -> Value {
    // What is no JSON was refused when it was pulled.
    let document = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    json!({
        "id": image.id,
        "repo_tags": image.repo_tags,
        "repo_digests": image.repo_digests,
        "size": image.size,
        "pinned": image.pinned,
        "containers": image.containers,
        "layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
        "manifest_digest": image.manifest_digest,
        "manifest": document(&image.manifest),
        "config": document(&image.config),
    })
}

fn layer(layer: &Layer) -> Value {
    json!({
        "name": layer.name,
        "diff_id": layer.diff_id,
        "size": layer.bytes,
        "images": layer.images,
    })
}
