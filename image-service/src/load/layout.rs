//! `index.json`: an OCI layout.

use std::collections::BTreeMap;

use super::{Archive, Found};
use crate::config::{self, MAX_CONFIG};
use crate::digest::Digest;
use crate::error::Error;
use crate::manifest::{self, Descriptor, Document, MAX_DOCUMENT};
use crate::platform::Search;
use crate::reference::Reference;
use crate::store::Documents;

pub(super) const INDEX: &str = "index.json";
/// containerd's annotation holds a whole name, OCI's whatever the tool was told.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_NAME: &str = "org.opencontainers.image.ref.name";

/// Entries of one name are variants of one image; so are all that have none.
pub(super) fn read(archive: &Archive) -> Result<Vec<Found>, Error> {
    let bytes = archive.read(INDEX, MAX_DOCUMENT)?;
    let digest = Digest::of(&bytes);
    let Document::Index(entries) = manifest::parse(&digest, &bytes)? else {
        return Err(Error::content(archive.subject(), "index.json is no index"));
    };
    let mut images: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
    for entry in entries {
        images.entry(name(&entry)).or_default().push(entry);
    }
    images
        .into_iter()
        .map(|(name, entries)| found(archive, name, &entries))
        .collect()
}

/// A bare word is a tag without a repository: no name at all.
fn name(entry: &Descriptor) -> Option<String> {
    let annotations = &entry.annotations;
    let oci = || {
        let name = annotations.get(OCI_NAME)?;
        name.contains(['/', ':']).then_some(name)
    };
    annotations.get(CONTAINERD_NAME).or_else(oci).cloned()
}

fn found(archive: &Archive, name: Option<String>, entries: &[Descriptor]) -> Result<Found, Error> {
    let name = name.map(|name| Reference::parse(&name)).transpose()?;
    let mut search = Search::new(archive.subject().to_owned());
    search.add(entries)?;
    let mut target = None;
    loop {
        let entry = search.next()?;
        let bytes = archive.blob(&entry.digest, MAX_DOCUMENT)?;
        let is_top = entries
            .iter()
            .any(|top| top.digest == entry.digest.to_string());
        if is_top {
            target = Some(entry.digest);
        }
        if let Some(manifest) = search.read(&entry.digest, &bytes)? {
            let config = archive.blob(&manifest.config.digest, MAX_CONFIG)?;
            let document = config::parse(&manifest.config.digest, &config)?;
            let layers = manifest.layers(document.diff_ids.len())?;
            let layers = layers.iter();
            return Ok(Found {
                documents: Documents {
                    id: manifest.config.digest,
                    config,
                    manifest: Some((entry.digest, bytes)),
                },
                names: name.into_iter().collect(),
                target,
                layers: layers
                    .map(|layer| (layer.digest.blob_name(), Some(layer.digest)))
                    .collect(),
            });
        }
    }
}
