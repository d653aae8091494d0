//! Blobs on their way: each is a file that fills in any order while its reader follows from the front.
//!
//! ```text
//! <root>/content/<name>        a blob's bytes, with holes
//! <root>/content/<name>.map    a byte for each piece, 1 once the piece is there
//! <root>/content/boot          the boot that wrote all this
//! ```
//!
//! Nothing is synced: what is here survives the daemon, so that a pull goes on where a killed one stopped, and a reboot
//! drops it. Bytes are trusted only once their digest is right, wherever they came from.

mod partial;

mod ranges;

pub(crate) use partial::Partial;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use corten_sys::private;

use crate::digest::Digest;
use crate::error::{At as _, Error};
use crate::manifest::Blob;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The directory of partial blobs.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    path: PathBuf,
    same_boot: bool,
    in_use: Arc<Mutex<HashSet<String>>>,
}

impl Content {
    /// Blocks. What another boot has left is dropped: nobody knows which of it reached the disk.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let boot = fs::read(BOOT_ID).at("read", BOOT_ID)?;
        let mark = path.join("boot");
        let same_boot = fs::read(&mark).is_ok_and(|marked| marked == boot);
        if !same_boot {
            clear(&path)?;
            private::close_dir_all(&path).at("make", &path)?;
            private::write(&mark, &boot).at("write", &mark)?;
        }
        Ok(Self {
            path,
            same_boot,
            in_use: Arc::default(),
        })
    }

    /// What was written here before it was opened is all there.
    pub(crate) fn is_same_boot(&self) -> bool {
        self.same_boot
    }

    /// Blocks. The file for `blob` as the layer `chain`, with what an earlier pull got of it. One user at a time.
    pub(crate) fn partial(&self, chain: &Digest, blob: &Blob) -> Result<Arc<Partial>, Error> {
        let name = name(chain, blob);
        let guard = Guard::take(&self.in_use, name.clone());
        Partial::open(self.path.join(name), blob.size, guard).map(Arc::new)
    }

    /// Blocks. Deletes what [`Content::partial`] would find, which nobody uses.
    pub(crate) fn forget(&self, chain: &Digest, blob: &Blob) -> Result<(), Error> {
        let path = self.path.join(name(chain, blob));
        for path in [partial::map_path(&path), path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.at("delete", &path)?,
            }
        }
        Ok(())
    }

    /// Blocks. Deletes what nobody has written to for `age`.
    pub(crate) fn expire(&self, age: Duration) -> Result<(), Error> {
        for entry in fs::read_dir(&self.path).at("read", &self.path)? {
            let entry = entry.at("read", &self.path)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let blob = name.strip_suffix(".map").unwrap_or(&name);
            if blob == "boot" || self.is_in_use(blob) {
                continue;
            }
            let path = entry.path();
            let modified = entry.metadata().and_then(|meta| meta.modified());
            let idle = modified.at("stat", &path)?;
            let idle = SystemTime::now().duration_since(idle).unwrap_or_default();
            if idle >= age {
                fs::remove_file(&path).at("delete", &path)?;
            }
        }
        Ok(())
    }

    /// Blocks. Bytes on disk of all that waits for a pull.
    pub(crate) fn usage(&self) -> Result<u64, Error> {
        let mut bytes = 0;
        for entry in fs::read_dir(&self.path).at("read", &self.path)? {
            let entry = entry.at("read", &self.path)?;
            // It may have gone meanwhile.
            bytes += entry.metadata().map_or(0, |found| found.blocks() * 512);
        }
        Ok(bytes)
    }

    fn is_in_use(&self, name: &str) -> bool {
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.contains(name)
    }
}

/// Keeps a partial blob from expiring.
#[derive(Debug)]
struct Guard {
    in_use: Arc<Mutex<HashSet<String>>>,
    name: String,
}

impl Guard {
    fn take(in_use: &Arc<Mutex<HashSet<String>>>, name: String) -> Self {
        let mut names = in_use.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.clone());
        Self {
            in_use: Arc::clone(in_use),
            name,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut names = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&self.name);
    }
}

fn name(chain: &Digest, blob: &Blob) -> String {
    format!("{}-{}", &chain.hex()[..16], blob.digest.hex())
}

fn clear(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.at("delete", path),
    }
}
