//! `manifest.json`: what `docker save` and `skopeo copy docker-archive:` write.

use serde::Deserialize;

use super::{Archive, Found};
use crate::config::MAX_CONFIG;
use crate::digest::Digest;
use crate::error::Error;
use crate::manifest::MAX_DOCUMENT;
use crate::reference::Reference;
use crate::store::Documents;

pub(super) const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn read(archive: &Archive) -> Result<Vec<Found>, Error> {
    let bytes = archive.read(MANIFEST, MAX_DOCUMENT)?;
    let images: Vec<Image> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::content(archive.subject(), format!("{MANIFEST}: {error}")))?;
    images
        .into_iter()
        .map(|image| found(archive, image))
        .collect()
}

/// Docker images have no manifest of their own, and so no digest that a registry knows.
fn found(archive: &Archive, image: Image) -> Result<Found, Error> {
    let config = archive.read(&image.config, MAX_CONFIG)?;
    let tags = image.repo_tags.unwrap_or_default();
    let names = tags.iter().map(|tag| Reference::parse(tag));
    Ok(Found {
        documents: Documents {
            id: Digest::of(&config),
            config,
            manifest: None,
        },
        names: names.collect::<Result<_, _>>()?,
        target: None,
        layers: image
            .layers
            .into_iter()
            .map(|layer| (layer, None))
            .collect(),
    })
}
