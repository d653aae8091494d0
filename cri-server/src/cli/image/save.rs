//! `corten image save`.

use std::path::Path;

use corten_proto::admin::{SaveImagesRequest, admin_client::AdminClient};
use serde_json::json;
use tonic::transport::Channel;

use super::{Report, file_error};
use crate::cli::client::Error;

pub(super) async fn run(
    channel: Channel,
    images: Vec<String>,
    output: &Path,
) -> Result<Report, Error> {
    // The daemon has another working directory.
    let path = std::path::absolute(output).map_err(file_error(output))?;
    let path = path.display().to_string();
    let request = SaveImagesRequest {
        images: images.clone(),
        path: path.clone(),
    };
    AdminClient::new(channel).save_images(request).await?;
    let json = json!({ "images": images, "archive": path });
    Ok(Report::good(String::new(), json))
}
