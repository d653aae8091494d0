//! Getting an image's layers, side by side: each is taken from the store, waited for where another
//! pull has it in hand, or fetched and unpacked.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hyper::body::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::blocking::blocking;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::load::Archive;
use crate::manifest::Blob;
use crate::registry::Session;
use crate::store::{Ready, Staged, Store};
use crate::unpack::{self, Expected};

/// Chunks between network and disk, for each layer. hyper's are at most about 400 KiB.
const CHUNKS: usize = 16;

/// A layer to get.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) diff_id: Digest,
    pub(crate) source: Source,
}

#[derive(Debug)]
pub(crate) enum Source {
    Registry(Arc<Session>, Blob),
    /// A member of an archive, with the digest of its bytes where the archive names one.
    Archive(Arc<Archive>, String, Option<Digest>),
}

#[derive(Debug, Clone)]
pub(crate) struct Layers {
    store: Arc<Store>,
    slots: Arc<Mutex<Slots>>,
    downloads: Arc<Semaphore>,
}

/// Who holds a chain's lock fetches it. If that pull fails or is cancelled, the next in line does,
/// with its own credentials.
type Slot = tokio::sync::Mutex<Weak<Staged>>;
type Slots = HashMap<Digest, Arc<Slot>>;

impl Layers {
    pub(crate) fn new(store: Arc<Store>, max_concurrent_downloads: usize) -> Self {
        Self {
            store,
            slots: Arc::default(),
            downloads: Arc::new(Semaphore::new(max_concurrent_downloads.max(1))),
        }
    }

    /// All layers, bottom first. The first failure stops the others.
    pub(crate) async fn get(&self, wanted: Vec<Wanted>) -> Result<Vec<Ready>, Error> {
        let mut tasks = JoinSet::new();
        let mut below = None;
        for (index, wanted) in wanted.into_iter().enumerate() {
            let chain = Digest::chain(below.as_ref(), &wanted.diff_id);
            below = Some(chain);
            let layers = self.clone();
            tasks.spawn(async move { (index, layers.get_one(chain, wanted).await) });
        }
        let mut ready: Vec<Option<Ready>> = Vec::new();
        ready.resize_with(tasks.len(), || None);
        while let Some(done) = tasks.join_next().await {
            let (index, layer) = done.map_err(|_| Error::Stopped("getting a layer"))?;
            ready[index] = Some(layer?);
        }
        Ok(ready.into_iter().flatten().collect())
    }

    async fn get_one(&self, chain: Digest, wanted: Wanted) -> Result<Ready, Error> {
        let slot = self.slot(chain);
        let mut in_hand = slot.lock().await;
        // In this order: a layer is in the store before the pull that had it in hand lets go of it.
        if let Some(staged) = in_hand.upgrade() {
            return Ok(Ready::Staged(staged));
        }
        if let Some(hold) = self.store.hold_chain(&chain) {
            return Ok(Ready::Stored(hold));
        }
        let Ok(_permit) = self.downloads.acquire().await else {
            return Err(Error::Stopped("getting a layer"));
        };
        let staged = Arc::new(self.fetch(chain, wanted).await?);
        *in_hand = Arc::downgrade(&staged);
        Ok(Ready::Staged(staged))
    }

    /// A slot stays as long as somebody waits for it or has its layer in hand, also between fetching and recording it.
    fn slot(&self, chain: Digest) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || is_in_hand(slot));
        let slot = slots
            .entry(chain)
            .or_insert_with(|| Arc::new(Slot::new(Weak::new())));
        Arc::clone(slot)
    }

    async fn fetch(&self, chain: Digest, wanted: Wanted) -> Result<Staged, Error> {
        let diff_id = wanted.diff_id;
        match wanted.source {
            Source::Registry(session, blob) => {
                let mut first = 0;
                loop {
                    let (next, staged) = self
                        .download(chain, diff_id, &session, &blob, first)
                        .await?;
                    match (staged, next) {
                        (Err(error), Some(next)) if error.kind() == ErrorKind::DigestMismatch => {
                            tracing::warn!(%error, "a mirror sent wrong bytes, trying the next");
                            first = next;
                        }
                        (staged, _) => return staged,
                    }
                }
            }
            Source::Archive(archive, member, blob) => {
                let store = Arc::clone(&self.store);
                blocking("unpacking", move || {
                    let expected = Expected { blob, diff_id };
                    stage(&store, chain, archive.reader(&member)?, &expected)
                })
                .await
            }
        }
    }

    /// One pass over the hosts from `first` on: the host to try after a wrong digest, and the layer.
    async fn download(
        &self,
        chain: Digest,
        diff_id: Digest,
        session: &Session,
        blob: &Blob,
        first: usize,
    ) -> Result<(Option<usize>, Result<Staged, Error>), Error> {
        let (sink, chunks) = mpsc::channel(CHUNKS);
        let stream = Chunks {
            chunks,
            current: Bytes::new(),
            left: blob.size,
        };
        let expected = Expected {
            blob: Some(blob.digest),
            diff_id,
        };
        let store = Arc::clone(&self.store);
        let (downloaded, unpacked) = tokio::join!(
            session.blob(blob, first, sink),
            blocking("unpacking", move || stage(&store, chain, stream, &expected)),
        );
        match (downloaded, unpacked) {
            // The reader stopped for want of bytes: the network knows why.
            (Err(error), Err(Error::Stopped(_))) => Err(error),
            // A good layer is a good layer, and a bad one no more bytes can mend.
            (Err(_), unpacked) => Ok((None, unpacked)),
            (Ok(next), unpacked) => Ok((next, unpacked)),
        }
    }
}

fn is_in_hand(slot: &Slot) -> bool {
    slot.try_lock()
        .map_or(true, |staged| staged.strong_count() > 0)
}

fn stage(
    store: &Store,
    chain: Digest,
    stream: impl Read,
    expected: &Expected,
) -> Result<Staged, Error> {
    let path = store.staging().directory()?;
    let written = unpack::layer(stream, expected, path.open()?, store.trash())?;
    store.empty_trash_soon();
    Ok(Staged::new(chain, written, path))
}

/// The download as a blocking stream of exactly the announced size.
struct Chunks {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
    left: u64,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        while self.current.is_empty() {
            self.current = self
                .chunks
                .blocking_recv()
                .ok_or(io::ErrorKind::ConnectionAborted)?;
        }
        let read = self.current.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.current.split_to(read));
        self.left = self
            .left
            .saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}
