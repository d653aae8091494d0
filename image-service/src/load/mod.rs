//! Images from an archive on disk: an OCI layout, or what `docker save` writes, as one tar file.
//!
//! Rules: OCI image-spec v1.1, image-layout.md; Moby image specification v1.2, "Combined Image JSON +
//! Filesystem Changeset Format".

mod archive;

mod docker;

mod layout;

pub(crate) use archive::Archive;

use std::path::Path;
use std::sync::Arc;

use crate::blocking::blocking;
use crate::config;
use crate::digest::Digest;
use crate::error::Error;
use crate::layers::{Source, Wanted};
use crate::reference::Reference;
use crate::service::Inner;
use crate::store::{Documents, Pulled};

/// One image as an archive describes it.
#[derive(Debug)]
struct Found {
    documents: Documents,
    names: Vec<Reference>,
    /// What the names point to, if the archive knows: its digest belongs to each name's registry.
    target: Option<Digest>,
    /// Members that hold the layers, bottom first, with the digest of their bytes if it is known.
    layers: Vec<(String, Option<Digest>)>,
}

pub(crate) async fn load(inner: &Arc<Inner>, path: &Path) -> Result<Vec<String>, Error> {
    let store = Arc::clone(&inner.store);
    let path = path.to_owned();
    let (archive, images) = blocking("reading the archive", move || {
        let archive = Archive::open(&path, store.staging())?;
        let images = read(&archive)?;
        Ok((Arc::new(archive), images))
    })
    .await?;
    let mut loaded = Vec::new();
    for image in images {
        loaded.extend(load_one(inner, &archive, image).await?);
    }
    Ok(loaded)
}

fn read(archive: &Archive) -> Result<Vec<Found>, Error> {
    if archive.has(layout::INDEX) {
        layout::read(archive)
    } else if archive.has(docker::MANIFEST) {
        docker::read(archive)
    } else {
        let reason =
            "it is neither an OCI layout (index.json) nor a docker archive (manifest.json)";
        Err(Error::content(archive.subject(), reason))
    }
}

async fn load_one(
    inner: &Arc<Inner>,
    archive: &Arc<Archive>,
    found: Found,
) -> Result<Vec<String>, Error> {
    match &found.names[..] {
        [] => inner.policy.admit_archive(None)?,
        names => names
            .iter()
            .try_for_each(|name| inner.policy.admit_archive(Some(name)))?,
    }
    let document = config::parse(&found.documents.id, &found.documents.config)?;
    if document.diff_ids.len() != found.layers.len() {
        let reason = format!(
            "image {} has {} layers, its config lists {}",
            found.documents.id,
            found.layers.len(),
            document.diff_ids.len()
        );
        return Err(Error::content(archive.subject(), reason));
    }
    let pairs = found.layers.into_iter().zip(document.diff_ids);
    let wanted = pairs.map(|((member, blob), diff_id)| Wanted {
        diff_id,
        source: Source::Archive(Arc::clone(archive), member, blob),
    });
    let digests = found.target.iter().flat_map(|target| {
        let names = found.names.iter();
        names.map(|name| name.repo_digest(target))
    });
    let repo_digests: Vec<String> = digests.collect();
    let pulled = Pulled {
        layers: inner.layers.get(wanted.collect()).await?,
        repo_tags: found.names.iter().filter_map(Reference::repo_tag).collect(),
        repo_digests,
        config: document.config,
        documents: found.documents,
    };
    let store = Arc::clone(&inner.store);
    let image = blocking("recording the image", move || store.commit(pulled)).await?;
    match &found.names[..] {
        [] => Ok(vec![image.id.clone()]),
        names => Ok(names.iter().map(Reference::to_string).collect()),
    }
}
