//! `corten image rm`.

use corten_proto::cri::{self, image_service_client::ImageServiceClient};
use serde_json::json;
use tonic::transport::Channel;

use super::Report;
use crate::cli::client::Error;

pub(super) async fn run(channel: Channel, images: Vec<String>) -> Result<Report, Error> {
    let mut client = ImageServiceClient::new(channel);
    for image in &images {
        let spec = cri::ImageSpec {
            image: image.clone(),
            ..cri::ImageSpec::default()
        };
        client
            .remove_image(cri::RemoveImageRequest { image: Some(spec) })
            .await?;
    }
    Ok(Report::good(String::new(), json!({ "removed": images })))
}
