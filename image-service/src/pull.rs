//! One pull: reference, manifest, config, layers, commit.

use std::sync::Arc;

use hyper::body::Bytes;

use crate::blocking::blocking;
use crate::config::{self, Image, MAX_CONFIG};
use crate::digest::Digest;
use crate::error::{Error, brief};
use crate::layers::{Source, Wanted};
use crate::manifest::Manifest;
use crate::platform::{self, Search};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::{Auth, Session};
use crate::service::Inner;
use crate::store::{Documents, Pulled};

pub(crate) async fn pull(
    inner: &Arc<Inner>,
    reference: &str,
    auth: Option<Auth>,
) -> Result<Arc<Image>, Error> {
    let progress = inner.pulls.begin(reference);
    let reference = Reference::parse(reference)?;
    inner.policy.admit_name(&reference)?;
    let session = Arc::new(session(inner, &reference, auth).await?);
    let (top, bytes) = session.top().await?;
    let found = search(&session, &reference, top, bytes).await?;
    let mut digests = vec![top, found.digest];
    digests.dedup();
    inner.policy.admit(&session, &reference, &digests).await?;
    let config = session
        .small_blob("config", &found.manifest.config, MAX_CONFIG)
        .await?;
    let id = found.manifest.config.digest;
    let document = config::parse(&id, &config)?;
    if !platform::is_ours(&document.architecture) {
        let architecture = brief(document.architecture);
        tracing::warn!(image = %id, architecture, "image is for another architecture");
    }
    let wanted = wanted(&session, &progress, &found.manifest, &document.diff_ids)?;
    let pulled = Pulled {
        documents: Documents {
            id,
            config: config.into(),
            manifest: Some((found.digest, found.bytes.into())),
        },
        config: document.config,
        layers: inner.layers.get(wanted).await?,
        repo_tags: reference.repo_tag().into_iter().collect(),
        repo_digests: vec![reference.repo_digest(&top)],
    };
    let store = Arc::clone(&inner.store);
    blocking("recording the image", move || store.commit(pulled)).await
}

async fn session(
    inner: &Arc<Inner>,
    reference: &Reference,
    auth: Option<Auth>,
) -> Result<Session, Error> {
    let inner = Arc::clone(inner);
    let reference = reference.clone();
    let read = move || inner.registry.session(&reference, auth);
    blocking("reading hosts files", read).await
}

struct Found {
    digest: Digest,
    bytes: Bytes,
    manifest: Manifest,
}

async fn search(
    session: &Session,
    reference: &Reference,
    digest: Digest,
    bytes: Bytes,
) -> Result<Found, Error> {
    let mut search = Search::new(reference.to_string());
    let mut here = (digest, bytes);
    loop {
        let (digest, bytes) = here;
        if let Some(manifest) = search.read(&digest, &bytes)? {
            return Ok(Found {
                digest,
                bytes,
                manifest,
            });
        }
        let next = search.next()?;
        here = (next.digest, session.manifest(&next).await?);
    }
}

fn wanted(
    session: &Arc<Session>,
    progress: &Progress,
    manifest: &Manifest,
    diff_ids: &[Digest],
) -> Result<Vec<Wanted>, Error> {
    let blobs = manifest.layers(diff_ids.len())?;
    let pairs = blobs.into_iter().zip(diff_ids);
    let wanted = pairs.map(|(blob, diff_id)| Wanted {
        diff_id: *diff_id,
        source: Source::Registry {
            session: Arc::clone(session),
            meter: progress.layer(blob.digest, blob.size),
            blob,
        },
    });
    Ok(wanted.collect())
}
