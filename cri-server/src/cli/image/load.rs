//! `corten image load`.

use std::path::Path;

use corten_proto::admin::{LoadImagesRequest, admin_client::AdminClient};
use serde_json::json;
use tonic::transport::Channel;

use super::{Report, file_error};
use crate::cli::client::Error;

pub(super) async fn run(channel: Channel, archive: &Path) -> Result<Report, Error> {
    let path = std::fs::canonicalize(archive).map_err(file_error(archive))?;
    let request = LoadImagesRequest {
        path: path.display().to_string(),
    };
    let reply = AdminClient::new(channel).load_images(request).await?;
    let images = reply.into_inner().images;
    let text = images.iter().map(|image| format!("{image}\n")).collect();
    Ok(Report::good(text, json!({ "images": images })))
}
