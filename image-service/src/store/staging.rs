//! Layers on their way in: a directory that deletes itself unless it is moved into place.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::LayerHold;
use super::trash::{Janitor, Job, Trash};
use crate::digest::Digest;
use crate::error::{At as _, Error};
use crate::unpack::Written;

#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    next: AtomicU64,
    trash: Arc<Trash>,
    janitor: Janitor,
}

impl Staging {
    pub(super) fn new(path: PathBuf, trash: Arc<Trash>, janitor: Janitor) -> Self {
        Self {
            path,
            next: AtomicU64::new(0),
            trash,
            janitor,
        }
    }

    /// A fresh directory, with the mode of a root directory that its archive does not mention.
    pub(crate) fn directory(&self) -> Result<StagedPath, Error> {
        let path = self.next_path();
        fs::create_dir(&path).at("make", &path)?;
        let staged = self.guard(path);
        fs::set_permissions(&staged.path, fs::Permissions::from_mode(0o755))
            .at("chmod", &staged.path)?;
        Ok(staged)
    }

    /// A fresh file, to be written and read.
    pub(crate) fn file(&self) -> Result<(StagedPath, File), Error> {
        let path = self.next_path();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .at("make", &path)?;
        Ok((self.guard(path), file))
    }

    fn next_path(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.path.join(number.to_string())
    }

    fn guard(&self, path: PathBuf) -> StagedPath {
        StagedPath {
            path,
            trash: Arc::clone(&self.trash),
            janitor: self.janitor.clone(),
            placed: false,
        }
    }
}

/// Deleted when dropped, off the caller's path.
#[derive(Debug)]
pub(crate) struct StagedPath {
    path: PathBuf,
    trash: Arc<Trash>,
    janitor: Janitor,
    placed: bool,
}

impl StagedPath {
    pub(crate) fn open(&self) -> Result<OwnedFd, Error> {
        let dir = File::open(&self.path).at("open", &self.path)?;
        Ok(dir.into())
    }

    fn place(mut self, to: &Path) -> Result<(), Error> {
        fs::rename(&self.path, to).at("rename a layer to", to)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for StagedPath {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        if let Err(error) = self.trash.take_path(&self.path) {
            tracing::warn!(%error, "staging not cleaned; the next start does it");
        }
        self.janitor.ask(Job::EmptyTrash);
    }
}

/// A layer that is verified and unpacked, but not durable and not recorded. Several pulls may wait
/// for one; the first that commits brings it in.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(super) chain: Digest,
    pub(super) written: Written,
    place: Mutex<Place>,
    /// Set once recorded: the others that wait must find it still there.
    pub(super) hold: OnceLock<LayerHold>,
}

#[derive(Debug)]
enum Place {
    Staging(StagedPath),
    /// Its name below `layers`.
    Layers(String),
    Lost,
}

impl Staged {
    pub(crate) fn new(chain: Digest, written: Written, path: StagedPath) -> Self {
        Self {
            chain,
            written,
            place: Mutex::new(Place::Staging(path)),
            hold: OnceLock::new(),
        }
    }

    /// Blocks. Moves it into `layers`, unless that was done already, and returns its name there.
    pub(super) fn place(&self, layers: &Path, name: String) -> Result<String, Error> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *place, Place::Lost) {
            Place::Staging(path) => path.place(&layers.join(&name))?,
            Place::Layers(name) => {
                *place = Place::Layers(name.clone());
                return Ok(name);
            }
            Place::Lost => return Err(Error::Stopped("recording a layer")),
        }
        *place = Place::Layers(name.clone());
        Ok(name)
    }
}
