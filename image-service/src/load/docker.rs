//! `manifest.json`: what `docker save` and `skopeo copy docker-archive:` write.

use super::{Archive, Found};
use crate::config::MAX_CONFIG;
use crate::digest::Digest;
use crate::error::Error;
use crate::json;
use crate::manifest::MAX_DOCUMENT;
use crate::reference::Reference;
use crate::store::Documents;

pub(super) const MANIFEST: &str = "manifest.json";

struct Image {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

pub(super) fn read(archive: &Archive) -> Result<Vec<Found>, Error> {
    let bytes = archive.read(MANIFEST, MAX_DOCUMENT)?;
    let images = json::parse(&bytes).and_then(|value| {
        let images = value.list()?.iter().map(|image| {
            let image = image.object()?;
            Ok(Image {
                config: image.text("Config")?,
                repo_tags: image.texts("RepoTags")?,
                layers: image.texts("Layers")?,
            })
        });
        images.collect::<Result<Vec<_>, json::Fault>>()
    });
    images
        .map_err(|error| Error::content(archive.subject(), format!("{MANIFEST}: {error}")))?
        .into_iter()
        .map(|image| found(archive, image))
        .collect()
}

/// Docker images have no manifest of their own, and so no digest that a registry knows.
fn found(archive: &Archive, image: Image) -> Result<Found, Error> {
    let config = archive.read(&image.config, MAX_CONFIG)?;
    let names = image.repo_tags.iter().map(|tag| Reference::parse(tag));
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
