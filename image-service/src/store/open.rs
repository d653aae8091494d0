//! Opening the store: what a crash left is dropped, what is recorded but gone is forgotten.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread;

use corten_sys::private;

use super::Store;
use super::records::{Change, Contents, ImageRecord, Records};
use super::staging::Staging;
use super::state::State;
use super::trash::{self, Janitor, Job, Trash};
use crate::config;
use crate::digest::Digest;
use crate::error::{At as _, Error};
use crate::pins::Pins;

impl Store {
    /// Blocks.
    ///
    /// # Errors
    /// Only what keeps the disk from being used: a broken database is set aside.
    pub(crate) fn open(root: &Path, same_boot: bool, pins: Pins) -> Result<Arc<Self>, Error> {
        let [layers, tar_splits, blobs, staging, trash, quarantine] = [
            "layers",
            "tar-split",
            "blobs",
            "staging",
            "trash",
            "quarantine",
        ]
        .map(|name| root.join(name));
        for dir in [&layers, &tar_splits, &blobs, &staging, &trash, &quarantine] {
            private::close_dir_all(dir).at("make", dir)?;
        }
        let trash = Arc::new(Trash::open(trash)?);
        let mut opened = Records::open(&root.join("images.redb"), &quarantine)?;
        let mut state = State::new(pins);
        recover(&mut opened.records, opened.contents, &layers, &mut state)?;
        for dir in [&tar_splits, &blobs] {
            drop_orphans(dir, &state, &trash)?;
        }
        let (janitor, jobs) = Janitor::new();
        let store = Arc::new(Self {
            staging: Staging::open(staging, same_boot, Arc::clone(&trash), janitor.clone())?,
            layers,
            tar_splits,
            blobs,
            trash,
            janitor,
            records: Mutex::new(opened.records),
            state: Mutex::new(state),
            holds_known: AtomicBool::new(false),
            flushing: Mutex::default(),
            conditions: opened.condition.into_iter().collect(),
        });
        let weak = Arc::downgrade(&store);
        thread::Builder::new()
            .name("image-janitor".to_owned())
            .spawn(move || trash::work(&weak, &jobs))
            .at("start a thread for", root)?;
        store.janitor.ask(Job::EmptyTrash);
        for condition in &store.conditions {
            tracing::warn!(condition, "image store");
        }
        Ok(store)
    }
}

fn recover(
    records: &mut Records,
    contents: Contents,
    layers: &Path,
    state: &mut State,
) -> Result<(), Error> {
    let mut gone = Change::default();
    // Directories without a record may be under a container that still runs: found here, kept until
    // garbage is collected.
    for entry in fs::read_dir(layers).at("read", layers)? {
        let name = entry.at("read", layers)?.file_name();
        if let Some(name) = name.to_str() {
            state.put_layer(name, None);
        }
    }
    for (name, record) in contents.layers {
        if state.has_layer(&name) {
            state.put_layer(&name, Some(record));
        } else {
            gone.layers.push((name, None));
        }
    }
    for (id, record) in contents.images {
        match image_config(records, state, &id, &record) {
            Ok(config) => state.put_image(&id, record, config),
            Err(reason) => {
                tracing::warn!(image = id, reason, "image is incomplete and dropped");
                gone.images.push((id, None));
            }
        }
    }
    if !(gone.layers.is_empty() && gone.images.is_empty())
        && let Err(error) = records.write(&gone)
    {
        // With a full disk the records stay; the next start says the same.
        tracing::warn!(%error, "records of lost images stay");
    }
    Ok(())
}

/// A crash between moving a layer and what belongs to it leaves that alone.
fn drop_orphans(dir: &Path, state: &State, trash: &Trash) -> Result<(), Error> {
    for entry in fs::read_dir(dir).at("read", dir)? {
        let entry = entry.at("read", dir)?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| state.has_layer(name)) {
            trash.take_path(&entry.path())?;
        }
    }
    Ok(())
}

fn image_config(
    records: &mut Records,
    state: &State,
    id: &str,
    record: &ImageRecord,
) -> Result<config::ImageConfig, String> {
    if let Some(name) = record.layers.iter().find(|name| !state.is_recorded(name)) {
        return Err(format!("layer {name} is gone"));
    }
    let digest = Digest::parse(id).ok_or("its id is no digest")?;
    let bytes = records
        .document(&digest)
        .map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or("its config is gone")?;
    if Digest::by(digest.algorithm(), &bytes) != digest {
        return Err("its config has changed".to_owned());
    }
    let document = config::parse(&digest, &bytes).map_err(|error| error.to_string())?;
    Ok(document.config)
}
