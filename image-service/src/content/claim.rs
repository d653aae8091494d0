//! Claims of pulls on blobs. A blob's file is opened by the first that needs it, and closed, or deleted, by the last.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use super::partial::{self, Partial};
use crate::error::Error;

/// All claims, by the name of the blob's file.
#[derive(Debug, Default)]
pub(super) struct Claims {
    names: Mutex<HashMap<String, Weak<Claim>>>,
    gone: Condvar,
}

impl Claims {
    /// Blocks while the last claim on the same blob is at its end. `size` is the blob's, in bytes.
    pub(super) fn take(self: &Arc<Self>, folder: &Path, (name, size): (String, u64)) -> Arc<Claim> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match names.get(&name) {
                None => break,
                Some(claim) => {
                    if let Some(claim) = claim.upgrade() {
                        return claim;
                    }
                }
            }
            // It deletes the files that a new one would open.
            let woken = self.gone.wait(names);
            names = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let claim = Arc::new(Claim {
            path: folder.join(&name),
            size,
            partial: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            is_doomed: AtomicBool::new(false),
            all: Arc::clone(self),
            name: name.clone(),
        });
        names.insert(name, Arc::downgrade(&claim));
        claim
    }

    pub(super) fn has(&self, name: &str) -> bool {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains_key(name)
    }
}

/// A pull's part in what is done with a blob, shared by all that want it.
#[derive(Debug)]
pub(crate) struct Claim {
    name: String,
    path: PathBuf,
    size: u64,
    partial: Mutex<Option<Arc<Partial>>>,
    /// Held by the one that fetches. If it fails, the next one goes on, with its own credentials.
    turn: tokio::sync::Mutex<()>,
    is_doomed: AtomicBool,
    all: Arc<Claims>,
}

impl Claim {
    /// Blocks. The blob's file, with what an earlier pull got of it.
    pub(crate) fn partial(&self) -> Result<Arc<Partial>, Error> {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(partial) = &*partial {
            return Ok(Arc::clone(partial));
        }
        let opened = Arc::new(Partial::open(self.path.clone(), self.size)?);
        self.is_doomed.store(false, Ordering::Relaxed);
        *partial = Some(Arc::clone(&opened));
        Ok(opened)
    }

    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Deletes the files when the last claim ends.
    pub(crate) fn doom(&self) {
        self.is_doomed.store(true, Ordering::Relaxed);
    }

    fn remove(&self) {
        for path in [&partial::map_path(&self.path), &self.path] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::debug!(%error, path = %path.display(), "a partial blob is not deleted");
                }
                _ => {}
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_doomed.load(Ordering::Relaxed) {
            self.remove();
        }
        let mut names = self
            .all
            .names
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        names.remove(&self.name);
        drop(names);
        self.all.gone.notify_all();
    }
}
