//! Whether layers are as they were pulled, and what to do where they are not: one layer is taken out of
//! service, its images are pulled again, and nothing else is touched.

mod layer;

mod entry;

mod walk;

mod shutdown;

pub(crate) use layer::Difference;
pub(crate) use shutdown::{RECENT, Shutdown};

use std::fs::File;
use std::sync::Arc;

use crate::blocking::blocking;
use crate::config::Image;
use crate::digest::Digest;
use crate::error::{At as _, Error};
use crate::pull;
use crate::service::Inner;

/// Differences that a report names.
const SHOWN: usize = 10;
/// Unit: bytes.
const MAX_SHOWN_PATH: usize = 256;

/// What was found, and done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// How many layers were checked.
    pub layers: u64,
    /// Unit: bytes on disk of those.
    pub bytes: u64,
    /// Layers that say nothing about what they must be: an older release unpacked them.
    pub unchecked: Vec<String>,
    pub faults: Vec<LayerFault>,
    /// Images of broken layers, where repair was asked for.
    pub repairs: Vec<ImageRepair>,
}

/// A layer that is not as it was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFault {
    /// Its directory's name below `layers`.
    pub layer: String,
    /// Shape: `sha256:` and 64 hex digits.
    pub diff_id: String,
    /// A name or id of each image that needs it.
    pub images: Vec<String>,
    /// Sentences, the first ten.
    pub differences: Vec<String>,
    /// How many more there are, of at most 1000.
    pub more: u64,
}

/// What became of an image with a broken layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRepair {
    /// A name or id.
    pub image: String,
    /// `None` if it is whole again; else why it could not be pulled, and it is gone from the list.
    pub error: Option<String>,
}

/// A layer that may be checked.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) diff_id: Option<Digest>,
    pub(crate) bytes: u64,
    /// Unit: seconds since the epoch.
    pub(crate) committed: u64,
}

pub(crate) async fn verify(
    inner: &Arc<Inner>,
    subjects: Vec<Subject>,
    repair: bool,
) -> Result<Verification, Error> {
    let mut found = Verification::default();
    for subject in subjects {
        let Some(diff_id) = subject.diff_id else {
            found.unchecked.push(subject.name);
            continue;
        };
        let Some(differences) = check(inner, &subject.name, diff_id).await? else {
            // It was removed meanwhile.
            continue;
        };
        found.layers += 1;
        found.bytes += subject.bytes;
        if !differences.is_empty() {
            let images = inner.store.users(&subject.name);
            let fault = fault(subject.name, diff_id, &images, &differences);
            tracing::warn!(layer = fault.layer, images = ?fault.images, differences = ?fault.differences, "layer is broken");
            found.faults.push(fault);
        }
    }
    if repair && !found.faults.is_empty() {
        found.repairs = repair_all(inner, &found.faults).await?;
    }
    Ok(found)
}

async fn check(
    inner: &Arc<Inner>,
    name: &str,
    diff_id: Digest,
) -> Result<Option<Vec<Difference>>, Error> {
    let Some(hold) = inner.store.hold_layers(&[name.to_owned()]) else {
        return Ok(None);
    };
    let store = Arc::clone(&inner.store);
    blocking("verifying a layer", move || {
        let places = store.places(&hold.names()[0]);
        let root = File::open(&places.directory).at("open", &places.directory)?;
        let differences = match File::open(&places.tar_split) {
            Ok(tar_split) => layer::check(&root.into(), tar_split, &diff_id),
            Err(error) => Err(error),
        };
        Ok(Some(differences.unwrap_or_else(|error| {
            let what = format!("what was kept of its archive cannot be read: {error}");
            vec![Difference {
                path: Vec::new(),
                what,
            }]
        })))
    })
    .await
}

fn fault(
    layer: String,
    diff_id: Digest,
    images: &[Arc<Image>],
    differences: &[Difference],
) -> LayerFault {
    let shown = differences.iter().take(SHOWN).map(|difference| {
        let end = difference.path.len().min(MAX_SHOWN_PATH);
        let path = String::from_utf8_lossy(&difference.path[..end]);
        format!("/{path}: {}", difference.what)
    });
    LayerFault {
        layer,
        diff_id: diff_id.to_string(),
        images: images.iter().map(|image| name_of(image)).collect(),
        differences: shown.collect(),
        more: u64::try_from(differences.len().saturating_sub(SHOWN)).unwrap_or(0),
    }
}

async fn repair_all(inner: &Arc<Inner>, faults: &[LayerFault]) -> Result<Vec<ImageRepair>, Error> {
    let mut broken = Vec::<Arc<Image>>::new();
    for fault in faults {
        for image in inner.store.users(&fault.layer) {
            if !broken.iter().any(|known| known.id == image.id) {
                broken.push(image);
            }
        }
        let (store, name) = (Arc::clone(&inner.store), fault.layer.clone());
        blocking("taking a layer out of service", move || {
            store.distrust(&name)
        })
        .await?;
    }
    let mut repairs = Vec::new();
    for image in broken {
        let error = match pull_again(inner, &image).await {
            Ok(()) => None,
            Err(reason) => {
                let (store, id) = (Arc::clone(&inner.store), image.id.clone());
                blocking("removing the image", move || store.remove(&id)).await?;
                Some(reason)
            }
        };
        let image = name_of(&image);
        tracing::warn!(image, error, "image with a broken layer was pulled again");
        repairs.push(ImageRepair { image, error });
    }
    let layers = faults.iter().map(|fault| fault.layer.clone()).collect();
    inner.store.sweep_soon(layers);
    Ok(repairs)
}

/// Only what is broken is fetched.
async fn pull_again(inner: &Arc<Inner>, image: &Image) -> Result<(), String> {
    let mut reason = "it has no digest in any registry: load it again".to_owned();
    for reference in &image.repo_digests {
        match pull::pull(inner, reference, None).await {
            Ok(pulled) if pulled.id == image.id => return Ok(()),
            Ok(_) => reason = format!("{reference} is another image for this platform now"),
            Err(error) => {
                reason = format!("{error}; pull it again with credentials if it needs them")
            }
        }
    }
    Err(reason)
}

fn name_of(image: &Image) -> String {
    let names = image.repo_tags.iter().chain(&image.repo_digests);
    names.chain([&image.id]).next().cloned().unwrap_or_default()
}
