//! `corten image df`.

use corten_proto::admin::{ImageDiskUsageRequest, admin_client::AdminClient};
use serde_json::json;
use tonic::transport::Channel;

use super::{
    Report,
    table::{bytes, table},
};
use crate::cli::client::Error;

pub(super) async fn run(channel: Channel) -> Result<Report, Error> {
    let reply = AdminClient::new(channel)
        .image_disk_usage(ImageDiskUsageRequest {})
        .await?;
    let usage = reply.into_inner();
    let image_bytes = usage.bytes.saturating_sub(usage.bytes_without_image);
    let image_layers = usage.layers.saturating_sub(usage.layers_without_image);
    let rows = [
        [
            "images".to_owned(),
            format!("{} in {image_layers} layers", usage.images),
            bytes(image_bytes),
            format!("{} by gc", bytes(usage.collectable_bytes)),
        ],
        [
            "removed images".to_owned(),
            format!("{} layers", usage.layers_without_image),
            bytes(usage.bytes_without_image),
            "with their last container".to_owned(),
        ],
        [
            "unfinished pulls".to_owned(),
            String::new(),
            bytes(usage.partial_bytes),
            "soon, unless pulled again".to_owned(),
        ],
    ];
    let text = table(["WHAT", "COUNT", "SIZE", "GOES"], &rows);
    let json = json!({
        "images": usage.images,
        "layers": usage.layers,
        "bytes": usage.bytes,
        "layers_without_image": usage.layers_without_image,
        "bytes_without_image": usage.bytes_without_image,
        "partial_bytes": usage.partial_bytes,
        "collectable_bytes": usage.collectable_bytes,
    });
    Ok(Report::good(text, json))
}
