//! Getting an image's layers, side by side: each is taken from the store, or from another pull that has it in hand, waited
//! for where another pull fetches it from the same registry, or fetched and unpacked.
//!
//! No pull waits for bytes of a registry that it does not ask itself: a registry may send them as slowly as it likes.

use std::cmp::Reverse;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

use crate::blocking::blocking;
use crate::content::{Claim, Content, Feed, Partial};
use crate::digest::Digest;
use crate::error::Error;
use crate::load::Archive;
use crate::manifest::Blob;
use crate::progress::{Meter, Phase};
use crate::registry::{Download, Session};
use crate::sharing::{Lanes, Sharing};
use crate::store::{Ready, Staged, Store};
use crate::unpack::{self, Expected};

/// A layer to get.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) diff_id: Digest,
    pub(crate) source: Source,
}

impl Wanted {
    /// Unit: bytes; 0 where it is not known.
    fn size(&self) -> u64 {
        match &self.source {
            Source::Registry { blob, .. } => blob.size,
            Source::Archive(..) => 0,
        }
    }

    fn registry(&self) -> Option<String> {
        match &self.source {
            Source::Registry { session, .. } => Some(session.registry().to_owned()),
            Source::Archive(..) => None,
        }
    }

    /// Blob with the name of its registry.
    fn blob(&self) -> Option<(Blob, String)> {
        match &self.source {
            Source::Registry { blob, .. } => Some((blob.clone(), self.registry()?)),
            Source::Archive(..) => None,
        }
    }

    fn meter(&self) -> Option<Arc<Meter>> {
        match &self.source {
            Source::Registry { meter, .. } => Some(Arc::clone(meter)),
            Source::Archive(..) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) enum Source {
    Registry {
        session: Arc<Session>,
        blob: Blob,
        meter: Arc<Meter>,
    },
    /// A member of an archive, with the digest of its bytes where the archive names one.
    Archive(Arc<Archive>, String, Option<Digest>),
}

#[derive(Debug, Clone)]
pub(crate) struct Layers {
    store: Arc<Store>,
    content: Content,
    sharing: Arc<Sharing>,
    keeps_blobs: bool,
}

impl Layers {
    pub(crate) fn new(
        store: Arc<Store>,
        content: Content,
        max_concurrent_downloads: usize,
        keeps_blobs: bool,
    ) -> Self {
        Self {
            store,
            content,
            sharing: Arc::new(Sharing::new(max_concurrent_downloads)),
            keeps_blobs,
        }
    }

    /// All layers, bottom first. The first failure stops the others.
    pub(crate) async fn get(&self, wanted: Vec<Wanted>) -> Result<Vec<Ready>, Error> {
        let mut tasks = JoinSet::new();
        let spool = Spool::default();
        let lanes = Arc::new(self.sharing.lanes());
        let claims = self.claim(&wanted).await?;
        let mut below = None;
        let mut chained: Vec<_> = wanted
            .into_iter()
            .zip(claims)
            .map(|(wanted, claim)| {
                let chain = Digest::chain(below.as_ref(), &wanted.diff_id);
                below = Some(chain);
                (chain, wanted, claim)
            })
            .enumerate()
            .collect();
        // The largest first, so that none of them is alone at the end.
        chained.sort_by_key(|(_, (_, wanted, _))| Reverse(wanted.size()));
        for (index, (chain, wanted, claim)) in chained {
            let layers = self.clone();
            let (meter, spool, lanes) = (wanted.meter(), spool.clone(), Arc::clone(&lanes));
            tasks.spawn(async move {
                let layer = layers.get_one(chain, wanted, claim, &spool, &lanes).await;
                if let Some(meter) = meter {
                    meter.enter(Phase::Done);
                }
                (index, layer)
            });
        }
        let mut gathered = Gathered::new(&self.store, tasks.len());
        while let Some(done) = tasks.join_next().await {
            let (index, layer) = done.map_err(|_| Error::Stopped("getting a layer"))?;
            match layer {
                Ok(layer) => {
                    gathered.layers[index] = Some(layer);
                    self.store.flush_soon();
                }
                Err(error) => {
                    gathered.is_worth_keeping = is_passing(&error);
                    tasks.shutdown().await;
                    if !gathered.is_worth_keeping {
                        spool.empty().await?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(gathered.take())
    }

    /// Before the first of them is fetched, so that what another pull fetches meanwhile is shared, also where it stands
    /// elsewhere in the chain and only its blob is the same.
    async fn claim(&self, wanted: &[Wanted]) -> Result<Vec<Option<Arc<Claim>>>, Error> {
        let blobs: Vec<_> = wanted.iter().map(Wanted::blob).collect();
        let content = self.content.clone();
        let claim = move |blob: Option<(Blob, String)>| {
            blob.map(|(blob, registry)| content.claim(&blob, &registry))
        };
        blocking("claiming blobs", move || {
            Ok(blobs.into_iter().map(claim).collect())
        })
        .await
    }

    async fn get_one(
        &self,
        chain: Digest,
        wanted: Wanted,
        claim: Option<Arc<Claim>>,
        spool: &Spool,
        lanes: &Lanes,
    ) -> Result<Ready, Error> {
        let turn = self.sharing.turn(chain, wanted.registry());
        let _turn = turn.lock().await;
        if let Some(layer) = self.sharing.find(&chain, &self.store) {
            release(claim).await?;
            return Ok(layer);
        }
        let _lane = lanes.enter().await?;
        // Another registry may have been quicker.
        if let Some(layer) = self.sharing.find(&chain, &self.store) {
            release(claim).await?;
            return Ok(layer);
        }
        let staged = self.fetch(chain, wanted, claim, spool).await?;
        Ok(Ready::Staged(self.sharing.add(chain, staged)))
    }

    async fn fetch(
        &self,
        chain: Digest,
        wanted: Wanted,
        claim: Option<Arc<Claim>>,
        spool: &Spool,
    ) -> Result<Staged, Error> {
        let diff_id = wanted.diff_id;
        match (wanted.source, claim) {
            (
                Source::Registry {
                    session,
                    blob,
                    meter,
                },
                Some(claim),
            ) => {
                meter.enter(Phase::Fetching);
                spool.add(&claim);
                let of = Arc::clone(&claim);
                let partial = blocking("opening a blob", move || of.partial()).await?;
                let download = Download {
                    session,
                    blob,
                    partial,
                    claim,
                    meter,
                    ranges: Arc::default(),
                };
                let staged = match self.download(chain, diff_id, &download).await {
                    Ok(staged) if self.keeps_blobs => keep_blob(staged, &download.partial).await,
                    other => other,
                };
                // What has come is worth something to a later pull only if it was right so far.
                let is_kept =
                    staged.as_ref().is_err_and(is_passing) && download.partial.present() > 0;
                if !is_kept {
                    spool.delete(download.claim).await?;
                }
                staged
            }
            (Source::Registry { .. }, None) => Err(Error::Stopped("claiming a blob")),
            (Source::Archive(archive, member, blob), _) => {
                let store = Arc::clone(&self.store);
                blocking("unpacking", move || {
                    let expected = Expected { blob, diff_id };
                    stage(&store, chain, archive.reader(&member)?, &expected)
                })
                .await
            }
        }
    }

    /// Fetches and unpacks, anew from the next host where the bytes were wrong, or where another pull found so.
    async fn download(
        &self,
        chain: Digest,
        diff_id: Digest,
        download: &Download,
    ) -> Result<Staged, Error> {
        let mut first = 0;
        loop {
            let feed = download.partial.feed(Arc::clone(&download.meter));
            let (next, staged) = self
                .download_once(chain, diff_id, download, &feed, first)
                .await?;
            let error = match staged {
                Ok(staged) => {
                    download.partial.seal();
                    return Ok(staged);
                }
                Err(error) => error,
            };
            if !feed.is_current() {
                continue;
            }
            let Some(next) = next.filter(|_| is_of(&error, &download.blob)) else {
                return Err(error);
            };
            tracing::warn!(%error, "wrong bytes came, trying again");
            let (partial, generation) = (Arc::clone(&download.partial), feed.generation());
            let again = blocking("emptying a blob", move || partial.reset(generation));
            if !again.await? {
                return Err(error);
            }
            first = next;
        }
    }

    /// One pass over the hosts from `first` on: the host to try after a wrong digest, and the layer.
    async fn download_once(
        &self,
        chain: Digest,
        diff_id: Digest,
        download: &Download,
        feed: &Arc<Feed>,
        first: usize,
    ) -> Result<(Option<usize>, Result<Staged, Error>), Error> {
        let expected = Expected {
            blob: Some(download.blob.digest),
            diff_id,
        };
        let store = Arc::clone(&self.store);
        let stream = feed.reader();
        // Also when the caller leaves: the reader waits for bytes.
        let close = Close(feed);
        let unpack = blocking("unpacking", move || stage(&store, chain, stream, &expected));
        let mut unpack = std::pin::pin!(unpack);
        // Another pull that fetches the blob may get all of it.
        let turn = tokio::select! {
            biased;
            unpacked = &mut unpack => {
                let next = (feed.present() > 0).then_some(first);
                return Ok((next, unpacked));
            }
            turn = download.claim.turn() => turn,
        };
        let fetch = async {
            let _close = close;
            let _turn = turn;
            download.session.blob(download, feed, first).await
        };
        match tokio::join!(fetch, unpack) {
            // The reader stopped for want of bytes: the network knows why.
            (Err(error), Err(Error::Stopped(_))) => Err(error),
            // A good layer is a good layer, and a bad one no more bytes can mend.
            (Err(_), unpacked) => Ok((None, unpacked)),
            (Ok(next), unpacked) => Ok((next, unpacked)),
        }
    }
}

/// Whether it is the blob that is wrong, and not what the image says of its content.
fn is_of(error: &Error, blob: &Blob) -> bool {
    matches!(error, Error::Digest { want, .. } if *want == blob.digest.to_string())
}

/// Whether the next try may go on where this one stopped.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Registry { .. } | Error::Stopped(_))
}

/// What a pull has so far. If it fails, or its caller leaves, the next one finds it.
struct Gathered<'a> {
    store: &'a Store,
    layers: Vec<Option<Ready>>,
    is_worth_keeping: bool,
}

impl<'a> Gathered<'a> {
    fn new(store: &'a Store, count: usize) -> Self {
        Self {
            store,
            layers: std::iter::repeat_with(|| None).take(count).collect(),
            is_worth_keeping: true,
        }
    }

    fn take(mut self) -> Vec<Ready> {
        std::mem::take(&mut self.layers)
            .into_iter()
            .flatten()
            .collect()
    }
}

impl Drop for Gathered<'_> {
    fn drop(&mut self) {
        for layer in self.layers.drain(..).flatten() {
            if let Ready::Staged(staged) = layer
                && self.is_worth_keeping
            {
                self.store.staging().keep(staged);
            }
        }
    }
}

/// The blobs that one pull has in hand. Deleting large files takes its time.
#[derive(Debug, Clone, Default)]
struct Spool(Arc<Mutex<Vec<Arc<Claim>>>>);

impl Spool {
    fn add(&self, claim: &Arc<Claim>) {
        self.lock().push(Arc::clone(claim));
    }

    async fn delete(&self, claim: Arc<Claim>) -> Result<(), Error> {
        self.forget(&claim);
        delete(vec![claim]).await
    }

    fn forget(&self, claim: &Arc<Claim>) {
        let mut all = self.lock();
        if let Some(at) = all.iter().position(|other| Arc::ptr_eq(other, claim)) {
            all.swap_remove(at);
        }
    }

    async fn empty(&self) -> Result<(), Error> {
        let all = std::mem::take(&mut *self.lock());
        delete(all).await
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Claim>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn keep_blob(staged: Staged, partial: &Arc<Partial>) -> Result<Staged, Error> {
    let partial = Arc::clone(partial);
    blocking("keeping a blob", move || {
        staged.keep_blob(partial.path())?;
        Ok(staged)
    })
    .await
}

/// The layer is here: what a daemon that was killed, or another pull, has of its blob need not stay for it.
async fn release(claim: Option<Arc<Claim>>) -> Result<(), Error> {
    match claim {
        Some(claim) => delete(vec![claim]).await,
        None => Ok(()),
    }
}

async fn delete(claims: Vec<Arc<Claim>>) -> Result<(), Error> {
    blocking("deleting blobs", move || {
        claims.iter().for_each(|claim| claim.doom());
        drop(claims);
        Ok(())
    })
    .await
}

/// Ends the reader's waiting, however the download ends.
struct Close<'a>(&'a Feed);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn stage(
    store: &Store,
    chain: Digest,
    stream: impl Read + Send,
    expected: &Expected,
) -> Result<Staged, Error> {
    let path = store.staging().directory()?;
    let (root, tar_split) = (path.open()?, path.tar_split()?);
    let unpacked = unpack::layer(stream, expected, root, tar_split, store.trash())?;
    store.empty_trash_soon();
    store
        .staging()
        .complete(chain, expected.diff_id, unpacked, path)
}
