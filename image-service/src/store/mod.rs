//! What this node has: images in a durable database, their layers as directories, both mirrored in
//! memory, where all questions are answered.
//!
//! ```text
//! <root>/images.redb        images, layers, manifests and configs; every commit is durable
//! <root>/layers/<name>/     one unpacked layer, ready to be an overlay's lower directory
//! <root>/tar-split/<name>    the rest of that layer's archive
//! <root>/staging/           layers that are being unpacked; emptied at start
//! <root>/trash/             what is being deleted; emptied at start
//! <root>/quarantine/        a database that could not be read
//! ```
//!
//! A pull's layers become durable (`syncfs`), move into place, and then are recorded: an image that
//! is recorded is complete after a power cut. A removal goes the other way.

mod records;

mod state;

mod hold;

mod staging;

mod trash;

mod open;

mod commit;

mod sweep;

pub(crate) use commit::{Documents, Pulled, Ready};
pub use hold::LayerHold;
pub(crate) use staging::{Staged, StagedPath, Staging};
pub(crate) use trash::Trash;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Image;
use crate::digest::Digest;
use crate::error::Error;
use crate::verify::Subject;
use records::Records;
use state::State;
use trash::{Janitor, Job};

/// What images take on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Unit: bytes.
    pub bytes: u64,
    pub inodes: u64,
}

/// Calls that say so block; the others only look at memory.
#[derive(Debug)]
pub(crate) struct Store {
    layers: PathBuf,
    tar_splits: PathBuf,
    blobs: PathBuf,
    staging: Staging,
    trash: Arc<Trash>,
    janitor: Janitor,
    /// Held while the database or `layers` change, on blocking threads only. Taken before `state`.
    records: Mutex<Records>,
    state: Mutex<State>,
    /// Containers from before a restart have been heard: layers may be deleted.
    holds_known: AtomicBool,
    conditions: Vec<String>,
    flushing: Mutex<()>,
}

/// Where a layer lies.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) directory: PathBuf,
    pub(crate) tar_split: PathBuf,
    /// Only if blobs are kept.
    pub(crate) blob: PathBuf,
}

impl Places {
    fn files(&self) -> [&Path; 3] {
        [&self.directory, &self.tar_split, &self.blob]
    }
}

impl Store {
    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.state().images().map(Arc::clone).collect()
    }

    pub(crate) fn resolve(&self, reference: &str) -> Option<Arc<Image>> {
        self.state().resolve(reference)
    }

    pub(crate) fn usage(&self) -> Usage {
        self.state().usage()
    }

    /// Blocks. A manifest or config, byte for byte.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        self.records().document(digest)
    }

    /// The digest of the image's manifest, if it came with one.
    pub(crate) fn manifest_of(&self, id: &str) -> Option<Digest> {
        self.state().record(id)?.manifest
    }

    /// See [`State::freed_by`].
    pub(crate) fn freed_by(&self, ids: &[String]) -> u64 {
        self.state().freed_by(ids)
    }

    /// See [`State::without_image`].
    pub(crate) fn without_image(&self) -> (u64, u64) {
        self.state().without_image()
    }

    /// All layers, for whoever looks after them.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let state = self.state();
        let mut subjects: Vec<_> = state
            .layers()
            .map(|(name, record)| Subject {
                name: name.clone(),
                diff_id: record.diff_id,
                bytes: record.bytes,
                committed: record.committed,
            })
            .collect();
        subjects.sort_by(|a, b| a.name.cmp(&b.name));
        subjects
    }

    /// Images that need the layer.
    pub(crate) fn users(&self, layer: &str) -> Vec<Arc<Image>> {
        let state = self.state();
        let images = state.images();
        let users = images.filter(|image| image.layers.iter().any(|name| name == layer));
        users.map(Arc::clone).collect()
    }

    pub(crate) fn conditions(&self) -> Vec<String> {
        self.conditions.clone()
    }

    pub(crate) fn staging(&self) -> &Staging {
        &self.staging
    }

    pub(crate) fn trash(&self) -> &Trash {
        &self.trash
    }

    pub(crate) fn empty_trash_soon(&self) {
        self.janitor.ask(Job::EmptyTrash);
    }

    /// Writes to the disk what has come so far, while more comes: what a commit waits for is then short.
    pub(crate) fn flush_soon(self: &Arc<Self>) {
        let store = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let Ok(_one) = store.flushing.try_lock() else {
                // It takes along what has come meanwhile, or the commit does.
                return;
            };
            // The commit does it again, and tells the error.
            if let Ok(layers) = File::open(&store.layers) {
                rustix::fs::syncfs(&layers).ok();
            }
        });
    }

    /// Deletes those among `layers` that nothing needs.
    pub(crate) fn sweep_soon(&self, layers: Vec<String>) {
        self.janitor.ask(Job::Sweep(layers));
    }

    /// The layer with this chain id, if it is here, kept from deletion.
    pub(crate) fn hold_chain(self: &Arc<Self>, chain: &Digest) -> Option<LayerHold> {
        let mut state = self.state();
        let name = state.layer_of(chain)?.to_owned();
        state.add_holds(std::slice::from_ref(&name));
        drop(state);
        Some(LayerHold::new(self, vec![name]))
    }

    pub(crate) fn hold_layers(self: &Arc<Self>, layers: &[String]) -> Option<LayerHold> {
        let mut state = self.state();
        if !layers.iter().all(|name| state.has_layer(name)) {
            return None;
        }
        state.add_holds(layers);
        drop(state);
        Some(LayerHold::new(self, layers.to_vec()))
    }

    pub(crate) fn places(&self, name: &str) -> Places {
        Places {
            directory: self.layers.join(name),
            tar_split: self.tar_splits.join(name),
            blob: self.blobs.join(name),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
