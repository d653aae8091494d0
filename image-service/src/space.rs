//! Who takes which part of the disk.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Image;
use crate::content::Content;
use crate::digest::Digest;
use crate::error::Error;
use crate::store::Store;

/// The store as a whole. Units: bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub images: u64,
    pub layers: u64,
    /// Each layer once, with manifests and configs.
    pub bytes: u64,
    /// Of removed images; containers still use them, or they go soon.
    pub layers_without_image: u64,
    /// Part of `bytes`.
    pub bytes_without_image: u64,
    /// What failed pulls have left for the next.
    pub partial_bytes: u64,
}

/// An image with its documents and layers.
#[derive(Debug, Clone)]
pub struct Inspection {
    pub image: Arc<Image>,
    /// The config, byte for byte; its digest is the id.
    pub config: Vec<u8>,
    /// Digest and bytes; `None` for an image from a docker archive.
    pub manifest: Option<(String, Vec<u8>)>,
    /// Bottom first.
    pub layers: Vec<LayerUsage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerUsage {
    pub name: String,
    /// Shape: `sha256:` and 64 hex digits; empty if an older release unpacked it.
    pub diff_id: String,
    /// Unit: bytes on disk.
    pub bytes: u64,
    /// Images that have it.
    pub images: u64,
}

/// Blocks.
pub(crate) fn usage(store: &Store, content: &Content) -> Result<DiskUsage, Error> {
    let (layers_without_image, bytes_without_image) = store.without_image();
    Ok(DiskUsage {
        images: count(store.list().len()),
        layers: count(store.subjects().len()),
        bytes: store.usage().bytes,
        layers_without_image,
        bytes_without_image,
        partial_bytes: content.usage()?,
    })
}

/// Blocks.
pub(crate) fn inspect(store: &Store, reference: &str) -> Result<Option<Inspection>, Error> {
    let Some(image) = store.resolve(reference) else {
        return Ok(None);
    };
    let document = |digest: Option<Digest>| match digest {
        Some(digest) => store.document(&digest),
        None => Ok(None),
    };
    let digest = store.manifest_of(&image.id);
    let manifest = document(digest)?;
    let subjects: HashMap<_, _> = store
        .subjects()
        .into_iter()
        .map(|subject| (subject.name.clone(), subject))
        .collect();
    let layers = image.layers.iter().map(|name| {
        let subject = subjects.get(name);
        let diff_id = subject.and_then(|subject| subject.diff_id);
        LayerUsage {
            name: name.clone(),
            diff_id: diff_id.map(|digest| digest.to_string()).unwrap_or_default(),
            bytes: subject.map_or(0, |subject| subject.bytes),
            images: count(store.users(name).len()),
        }
    });
    Ok(Some(Inspection {
        layers: layers.collect(),
        config: document(Digest::parse(&image.id))?.unwrap_or_default(),
        manifest: digest.map(|digest| digest.to_string()).zip(manifest),
        image,
    }))
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
