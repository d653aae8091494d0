//! `corten image gc`.

use std::fmt::Write as _;

use corten_proto::admin::{CollectImagesRequest, admin_client::AdminClient};
use serde_json::json;
use tonic::transport::Channel;

use super::{Report, table::bytes};
use crate::cli::client::Error;

pub(super) async fn run(channel: Channel, dry_run: bool) -> Result<Report, Error> {
    let request = CollectImagesRequest { dry_run };
    let reply = AdminClient::new(channel).collect_images(request).await?;
    let collected = reply.into_inner();
    let mut text = String::new();
    for image in &collected.images {
        let _ = writeln!(text, "{image}");
    }
    let verb = if dry_run { "would free" } else { "freed" };
    let _ = writeln!(text, "{verb} {}", bytes(collected.bytes));
    let json = json!({
        "images": collected.images,
        "bytes": collected.bytes,
        "dry_run": dry_run,
    });
    Ok(Report::good(text, json))
}
