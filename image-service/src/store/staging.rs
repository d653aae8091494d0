//! Layers on their way in: a directory that deletes itself unless it is moved into place.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use corten_sys::private;
use serde::{Deserialize, Serialize};

use super::trash::{Janitor, Job, Trash};
use super::{LayerHold, Places, Store};
use crate::digest::Digest;
use crate::error::{At as _, Error};
use crate::unpack::{Unpacked, Written};

/// Beside a layer's directory: it is whole. Survives the daemon, not a reboot.
const DONE: &str = "done";
/// Beside a layer's directory: see `tar_split`.
const TAR_SPLIT: &str = "tar-split";
/// Beside a layer's directory: its archive as it came, if blobs are kept.
const BLOB: &str = "blob";

#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    next: AtomicU64,
    trash: Arc<Trash>,
    janitor: Janitor,
    /// Whole layers that wait for a pull, since when.
    ready: Mutex<HashMap<Digest, (Instant, Staged)>>,
}

/// Content of a `done` file. Fields are only ever added, with a default.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    chain: Digest,
    diff_id: Digest,
    bytes: u64,
    inodes: u64,
    #[serde(default)]
    implied: Vec<Vec<u8>>,
}

impl Staging {
    /// Takes up the whole layers that an earlier daemon has left, unless a reboot came between; drops all else.
    pub(super) fn open(
        path: PathBuf,
        same_boot: bool,
        trash: Arc<Trash>,
        janitor: Janitor,
    ) -> Result<Self, Error> {
        let staging = Self {
            path,
            next: AtomicU64::new(0),
            trash,
            janitor,
            ready: Mutex::default(),
        };
        for entry in fs::read_dir(&staging.path).at("read", &staging.path)? {
            let path = entry.at("read", &staging.path)?.path();
            if let Some(extension) = path.extension() {
                // What belongs to a layer goes its way.
                let is_side = [DONE, TAR_SPLIT, BLOB]
                    .iter()
                    .any(|side| extension == *side);
                if !is_side || !path.with_extension("").exists() {
                    drop(staging.guard(path));
                }
                continue;
            }
            match read_done(&path) {
                Some(done) if same_boot => {
                    let unpacked = Unpacked {
                        written: Written {
                            bytes: done.bytes,
                            inodes: done.inodes,
                        },
                        implied: done.implied,
                    };
                    let path = staging.guard(path);
                    let staged = Staged::new(done.chain, done.diff_id, unpacked, path);
                    staging.ready().insert(done.chain, (Instant::now(), staged));
                }
                // With what belongs to it.
                _ => drop(staging.guard(path)),
            }
        }
        Ok(staging)
    }

    /// A fresh directory, with the mode of a root directory that its archive does not mention.
    pub(crate) fn directory(&self) -> Result<StagedPath, Error> {
        let path = loop {
            let path = self.next_path();
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => break made.at("make", &path).map(|()| path)?,
            }
        };
        let staged = self.guard(path);
        fs::set_permissions(&staged.path, fs::Permissions::from_mode(0o755))
            .at("chmod", &staged.path)?;
        Ok(staged)
    }

    /// A fresh file, to be written and read.
    pub(crate) fn file(&self) -> Result<(StagedPath, File), Error> {
        loop {
            let path = self.next_path();
            let mut options = File::options();
            let options = options.read(true).write(true).create_new(true);
            match options.mode(private::FILE).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.at("make", &path).map(|file| (self.guard(path), file)),
            }
        }
    }

    /// A layer that is whole from now on, also for the next daemon.
    pub(crate) fn complete(
        &self,
        chain: Digest,
        diff_id: Digest,
        unpacked: Unpacked,
        path: StagedPath,
    ) -> Result<Staged, Error> {
        let done = Done {
            chain,
            diff_id,
            bytes: unpacked.written.bytes,
            inodes: unpacked.written.inodes,
            implied: unpacked.implied.clone(),
        };
        let mark = path.path.with_extension(DONE);
        let aside = path.path.with_extension("new");
        let text =
            serde_json::to_vec(&done).map_err(|error| Error::content("a layer's mark", error))?;
        private::write(&aside, text).at("write", &aside)?;
        fs::rename(&aside, &mark).at("rename to", &mark)?;
        Ok(Staged::new(chain, diff_id, unpacked, path))
    }

    /// A whole layer that an earlier pull has left.
    pub(crate) fn take(&self, chain: &Digest) -> Option<Staged> {
        self.ready().remove(chain).map(|(_, staged)| staged)
    }

    /// Lets a layer of a pull that failed wait for the next one, unless another pull has it, too.
    pub(crate) fn keep(&self, staged: Arc<Staged>) {
        if let Some(staged) = Arc::into_inner(staged)
            && staged.hold.get().is_none()
        {
            let chain = staged.chain;
            self.ready().insert(chain, (Instant::now(), staged));
        }
    }

    /// Drops what nobody has come back for.
    pub(crate) fn expire(&self, age: Duration) {
        self.ready().retain(|_, (since, _)| since.elapsed() < age);
    }

    fn ready(&self) -> MutexGuard<'_, HashMap<Digest, (Instant, Staged)>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Drop for Staging {
    /// What waits goes on waiting, for the next daemon.
    fn drop(&mut self) {
        for (_, (_, staged)) in self.ready().drain() {
            staged.leave();
        }
    }
}

pub(super) fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    let dir = File::open(path).at("open", path)?;
    Ok(dir.into())
}

fn read_done(path: &Path) -> Option<Done> {
    let mark = fs::read(path.with_extension(DONE)).ok()?;
    serde_json::from_slice(&mark).ok()
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
        open_dir(&self.path)
    }

    /// The empty file for what is kept of the layer's archive. Goes with the directory.
    pub(crate) fn tar_split(&self) -> Result<File, Error> {
        let path = self.path.with_extension(TAR_SPLIT);
        private::create(&path).at("make", &path)
    }

    fn place(mut self, places: &Places) -> Result<(), Error> {
        let tar_split = self.path.with_extension(TAR_SPLIT);
        fs::rename(tar_split, &places.tar_split)
            .at("rename a tar-split file to", &places.tar_split)?;
        match fs::rename(self.path.with_extension(BLOB), &places.blob) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.at("rename a blob to", &places.blob)?,
        }
        fs::rename(&self.path, &places.directory).at("rename a layer to", &places.directory)?;
        self.placed = true;
        self.remove_sides();
        Ok(())
    }

    fn remove_sides(&self) {
        for extension in [DONE, TAR_SPLIT, BLOB] {
            match fs::remove_file(self.path.with_extension(extension)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, "a layer's mark stays; the next start removes it");
                }
                _ => {}
            }
        }
    }
}

impl Drop for StagedPath {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        self.remove_sides();
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
    pub(super) diff_id: Digest,
    pub(super) unpacked: Unpacked,
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
    fn new(chain: Digest, diff_id: Digest, unpacked: Unpacked, path: StagedPath) -> Self {
        Self {
            chain,
            diff_id,
            unpacked,
            place: Mutex::new(Place::Staging(path)),
            hold: OnceLock::new(),
        }
    }

    /// Its directory, wherever it is now.
    pub(super) fn open(&self, layers: &Path) -> Result<OwnedFd, Error> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match &*place {
            Place::Staging(path) => path.open(),
            Place::Layers(name) => open_dir(&layers.join(name)),
            Place::Lost => Err(Error::Stopped("opening a layer")),
        }
    }

    /// Takes the file of its blob along, unless it is among the layers already. The file stays where it is, too, for others that
    /// unpack the same blob.
    pub(crate) fn keep_blob(&self, file: &Path) -> Result<(), Error> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match &*place {
            Place::Staging(path) => {
                fs::hard_link(file, path.path.with_extension(BLOB)).at("keep the blob", file)
            }
            Place::Layers(_) | Place::Lost => Ok(()),
        }
    }

    /// False once it is among the layers, for all to see.
    pub(super) fn is_staging(&self) -> bool {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*place, Place::Staging(_))
    }

    fn leave(&self) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Place::Staging(path) = &mut *place {
            path.placed = true;
        }
    }

    /// Blocks. Moves it among the layers, unless that was done already, and returns its name there.
    pub(super) fn place(&self, store: &Store, name: String) -> Result<String, Error> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *place, Place::Lost) {
            Place::Staging(path) => path.place(&store.places(&name))?,
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
