//! Bringing an image in: layers durable, in place, recorded, and only then visible.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::records::{Change, ImageRecord, LayerRecord};
use super::staging::open_dir;
use super::state::State;
use super::{LayerHold, Staged, Store};
use crate::config::{Image, ImageConfig};
use crate::digest::Digest;
use crate::error::{At as _, Error};
use crate::unpack;

/// A layer of an image that is about to be recorded.
#[derive(Debug)]
pub(crate) enum Ready {
    Stored(LayerHold),
    Staged(Arc<Staged>),
}

/// The image's documents, byte for byte.
#[derive(Debug)]
pub(crate) struct Documents {
    pub(crate) id: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Option<(Digest, Vec<u8>)>,
}

/// All of an image, verified.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) documents: Documents,
    pub(crate) config: ImageConfig,
    /// Bottom first.
    pub(crate) layers: Vec<Ready>,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
}

impl Store {
    /// Blocks. On success the image is durable and visible under all its names, old and new.
    pub(crate) fn commit(self: &Arc<Self>, pulled: Pulled) -> Result<Arc<Image>, Error> {
        let any_new = pulled
            .layers
            .iter()
            .any(|layer| matches!(layer, Ready::Staged(_)));
        if any_new {
            self.mend_implied(&pulled.layers)?;
            // Once for all layers, and before the lock: this waits for the disk.
            let layers = File::open(&self.layers).at("open", &self.layers)?;
            rustix::fs::syncfs(&layers).at("syncfs", &self.layers)?;
        }
        let mut records = self.records();
        let mut change = Change::default();
        let names = self.place_layers(&pulled.layers, &mut change)?;
        if any_new {
            for dir in [&self.tar_splits, &self.blobs, &self.layers] {
                sync_directory(dir)?;
            }
        }
        let id = pulled.documents.id.to_string();
        self.plan(&id, &pulled, names, &mut change);
        if !self.is_known(&change) {
            records.write(&change)?;
        }
        let mut state = self.state();
        for (name, record) in change.layers {
            state.put_layer(&name, record);
        }
        for (changed, record) in change.images {
            let config = match changed == id {
                true => pulled.config.clone(),
                false => state.config(&changed).cloned().unwrap_or_default(),
            };
            if let Some(record) = record {
                state.put_image(&changed, record, config);
            }
        }
        let image = state.resolve(&id);
        drop(state);
        // Layers are the image's now. The holds below end only after that.
        for layer in &pulled.layers {
            if let Ready::Staged(staged) = layer
                && let Some(hold) = self.hold_chain(&staged.chain)
            {
                drop(staged.hold.set(hold));
            }
        }
        drop(records);
        image.ok_or(Error::Stopped("recording the image"))
    }

    /// Gives the directories that a layer only implies their looks, from the layers below. Layers are named by all that is
    /// below them, so that what one image finds there is what every image finds.
    fn mend_implied(&self, layers: &[Ready]) -> Result<(), Error> {
        // Topmost first, as far as we have come.
        let mut below = Vec::new();
        for layer in layers {
            let dir = match layer {
                Ready::Staged(staged) => staged.open(&self.layers)?,
                Ready::Stored(hold) => match hold.lower_dirs().first() {
                    Some(path) => open_dir(path)?,
                    None => continue,
                },
            };
            if let Ready::Staged(staged) = layer
                && staged.is_staging()
            {
                unpack::mend(&dir, &staged.unpacked.implied, &below)
                    .at("mend directories of a layer in", &self.layers)?;
            }
            below.insert(0, dir);
        }
        Ok(())
    }

    /// Moves what is not in place yet; returns the names of all, bottom first.
    ///
    /// If a later step fails, the directories moved so far have no record; a new pull of the same
    /// layer takes another name, and they go with the next garbage collection.
    fn place_layers(&self, layers: &[Ready], change: &mut Change) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for layer in layers {
            let staged = match layer {
                Ready::Stored(hold) => {
                    names.extend_from_slice(hold.names());
                    continue;
                }
                Ready::Staged(staged) => staged,
            };
            let known = self.state().layer_of(&staged.chain).map(str::to_owned);
            let name = match known {
                Some(name) => name,
                None => {
                    let name = free_name(&self.state(), &staged.chain);
                    let name = staged.place(self, name)?;
                    // Lets garbage collection find the directory if we fail.
                    self.state().put_layer(&name, None);
                    let blob =
                        fs::metadata(self.places(&name).blob).map(|blob| blob.blocks() * 512);
                    let record = LayerRecord {
                        chain: staged.chain,
                        diff_id: Some(staged.diff_id),
                        committed: seconds(SystemTime::now()),
                        bytes: staged.unpacked.written.bytes + blob.as_ref().unwrap_or(&0),
                        inodes: staged.unpacked.written.inodes + u64::from(blob.is_ok()),
                    };
                    change.layers.push((name.clone(), Some(record)));
                    name
                }
            };
            names.push(name);
        }
        Ok(names)
    }

    /// A pull of what is here already writes nothing.
    fn is_known(&self, change: &Change) -> bool {
        let state = self.state();
        let same =
            |(id, record): &(String, Option<ImageRecord>)| state.record(id) == record.as_ref();
        change.layers.is_empty() && change.images.iter().all(same)
    }

    fn plan(&self, id: &str, pulled: &Pulled, layers: Vec<String>, change: &mut Change) {
        let state = self.state();
        let documents = &pulled.documents;
        let known = state.record(id);
        let mut record = ImageRecord {
            repo_tags: known
                .map(|record| record.repo_tags.clone())
                .unwrap_or_default(),
            repo_digests: known
                .map(|record| record.repo_digests.clone())
                .unwrap_or_default(),
            layers,
            manifest: known.and_then(|record| record.manifest),
            documents_size: 0,
            pinned: known.is_some_and(|record| record.pinned),
        };
        add(&mut record.repo_tags, &pulled.repo_tags);
        add(&mut record.repo_digests, &pulled.repo_digests);
        let mut size = documents.config.len();
        let config = (documents.id, Some(documents.config.clone()));
        change.documents.push(config);
        if let Some((digest, bytes)) = &documents.manifest {
            // The newest manifest is kept: what else led to this config can be fetched again.
            let old = record.manifest.replace(*digest).filter(|old| old != digest);
            change.documents.extend(old.map(|old| (old, None)));
            change.documents.push((*digest, Some(bytes.clone())));
            size += bytes.len();
        }
        record.documents_size = u64::try_from(size).unwrap_or(u64::MAX);
        // A tag means one image: whoever had it loses it.
        for tag in &pulled.repo_tags {
            let loser = state.owner(tag).filter(|owner| *owner != id);
            if let Some(loser) = loser
                && let Some(record) = state.record(loser)
            {
                let planned = change.images.iter_mut().find(|(id, _)| id == loser);
                match planned {
                    Some((_, Some(record))) => record.repo_tags.retain(|own| own != tag),
                    _ => {
                        let mut record = record.clone();
                        record.repo_tags.retain(|own| own != tag);
                        change.images.push((loser.to_owned(), Some(record)));
                    }
                }
            }
        }
        change.images.push((id.to_owned(), Some(record)));
    }
}

/// Short, because overlay's options take one page for all layers; longer if another layer has it.
fn free_name(state: &State, chain: &Digest) -> String {
    let hex = chain.hex();
    let short = &hex[..16];
    let mut name = short.to_owned();
    let mut more = 0;
    while state.has_layer(&name) {
        more += 1;
        name = format!("{short}-{more}");
    }
    name
}

fn add(names: &mut Vec<String>, more: &[String]) {
    for name in more {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_secs())
}

fn sync_directory(dir: &Path) -> Result<(), Error> {
    let dir_file = File::open(dir).at("open", dir)?;
    dir_file.sync_all().at("fsync", dir)
}
