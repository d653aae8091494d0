//! A promise that layers stay on disk.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use super::Store;
use super::trash::Job;

/// Layers that are not deleted while this lives, even if their image is removed.
#[derive(Debug)]
pub struct LayerHold {
    names: Vec<String>,
    lower_dirs: Vec<PathBuf>,
    store: Weak<Store>,
}

impl LayerHold {
    /// The caller has counted the hold already.
    pub(super) fn new(store: &Arc<Store>, names: Vec<String>) -> Self {
        let lower_dirs = names
            .iter()
            .rev()
            .map(|name| store.layers.join(name))
            .collect();
        Self {
            names,
            lower_dirs,
            store: Arc::downgrade(store),
        }
    }

    /// Bottom first, as in [`crate::Image::layers`]; for a container's record.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Absolute paths, topmost first, as overlay's `lowerdir` wants them.
    pub fn lower_dirs(&self) -> &[PathBuf] {
        &self.lower_dirs
    }
}

impl Drop for LayerHold {
    fn drop(&mut self) {
        let Some(store) = self.store.upgrade() else {
            return;
        };
        let unused = store.state().release_holds(&self.names);
        if !unused.is_empty() {
            store.janitor.ask(Job::Sweep(unused));
        }
    }
}
