//! `corten image verify`.

use std::fmt::Write as _;

use corten_proto::admin::{
    VerifyImagesRequest, VerifyImagesResponse,
    admin_client::AdminClient,
    verify_images_response::{Fault, Repair},
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{
    Report,
    table::{bytes, short},
};
use crate::cli::client::Error;

/// Bad news if a layer is broken and stays so, or an image was lost.
pub(super) async fn run(channel: Channel, repair: bool) -> Result<Report, Error> {
    let request = VerifyImagesRequest { repair };
    let reply = AdminClient::new(channel).verify_images(request).await?;
    let found = reply.into_inner();
    let is_lost = found.repairs.iter().any(|repair| !repair.error.is_empty());
    Ok(Report {
        text: text(&found),
        json: view(&found),
        is_bad: is_lost || (!repair && !found.faults.is_empty()),
    })
}

fn text(found: &VerifyImagesResponse) -> String {
    let mut text = String::new();
    for fault in &found.faults {
        let images = fault.images.join(", ");
        let _ = writeln!(text, "broken: layer {} of {images}", short(&fault.diff_id));
        for difference in &fault.differences {
            let _ = writeln!(text, "  {difference}");
        }
        if fault.more > 0 {
            let _ = writeln!(text, "  and {} more", fault.more);
        }
    }
    for repair in &found.repairs {
        let _ = match repair.error.as_str() {
            "" => writeln!(text, "repaired: {}", repair.image),
            error => writeln!(text, "removed: {}: {error}", repair.image),
        };
    }
    if !found.unchecked.is_empty() {
        let count = found.unchecked.len();
        let _ = writeln!(text, "not checked: {count} layers of an older release");
    }
    let (layers, broken) = (found.layers, found.faults.len());
    let size = bytes(found.bytes);
    let _ = writeln!(text, "{layers} layers, {size}: {broken} broken");
    text
}

fn view(found: &VerifyImagesResponse) -> Value {
    json!({
        "layers": found.layers,
        "bytes": found.bytes,
        "unchecked": found.unchecked,
        "faults": found.faults.iter().map(fault).collect::<Vec<_>>(),
        "repairs": found.repairs.iter().map(repair).collect::<Vec<_>>(),
    })
}

fn fault(fault: &Fault) -> Value {
    json!({
        "layer": fault.layer,
        "diff_id": fault.diff_id,
        "images": fault.images,
        "differences": fault.differences,
        "more": fault.more,
    })
}

fn repair(repair: &Repair) -> Value {
    json!({ "image": repair.image, "error": repair.error })
}
