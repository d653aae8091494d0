//! `corten image ls`.

use corten_proto::cri::{self, image_service_client::ImageServiceClient};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{
    Report,
    table::{bytes, short, table},
};
use crate::cli::client::Error;

pub(super) async fn run(channel: Channel) -> Result<Report, Error> {
    let reply = ImageServiceClient::new(channel)
        .list_images(cri::ListImagesRequest::default())
        .await?;
    let images = reply.into_inner().images;
    let rows: Vec<_> = images.iter().flat_map(rows).collect();
    let text = table(["NAME", "ID", "SIZE"], &rows);
    Ok(Report::good(text, images.iter().map(view).collect()))
}

/// A row for each name.
fn rows(image: &cri::Image) -> Vec<[String; 3]> {
    let names = match image.repo_tags.is_empty() {
        true => &image.repo_digests,
        false => &image.repo_tags,
    };
    let unnamed = ["<none>".to_owned()];
    let names = match names.is_empty() {
        true => &unnamed[..],
        false => names,
    };
    let row = |name: &String| [name.clone(), short(&image.id), bytes(image.size)];
    names.iter().map(row).collect()
}

fn view(image: &cri::Image) -> Value {
    json!({
        "id": image.id,
        "repo_tags": image.repo_tags,
        "repo_digests": image.repo_digests,
        "size": image.size,
        "pinned": image.pinned,
    })
}
