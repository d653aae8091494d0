//! Blobs on their way: each is a file that fills in any order while its reader follows from the front.
//!
//! ```text
//! <root>/content/<name>        a blob's bytes, with holes
//! <root>/content/<name>.map    a byte for each piece, 1 once the piece is there
//! <root>/content/boot          the boot that wrote all this
//! ```
//!
//! A name is of the blob's digest and size and of its registry, so that all pulls that want a blob of one registry at one time
//! share its file: each claims it, one at a time fetches, and all read. Registries share nothing: a slow or hostile one must not
//! hold up what another serves.
//!
//! Nothing is synced: what is here survives the daemon, so that a pull goes on where a killed one stopped, and a reboot
//! drops it. Bytes are trusted only once their digest is right, wherever they came from.

mod claim;

mod partial;

mod ranges;

pub(crate) use claim::Claim;
pub(crate) use partial::{Feed, Partial};

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use corten_sys::private;

use crate::digest::Digest;
use crate::error::{At as _, Error};
use crate::manifest::Blob;
use claim::Claims;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The directory of partial blobs.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    path: PathBuf,
    same_boot: bool,
    claims: Arc<Claims>,
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
            claims: Arc::default(),
        })
    }

    /// What was written here before it was opened is all there.
    pub(crate) fn is_same_boot(&self) -> bool {
        self.same_boot
    }

    /// Blocks. A part in all that is done with `blob` of `registry` as long as it is kept.
    pub(crate) fn claim(&self, blob: &Blob, registry: &str) -> Arc<Claim> {
        self.claims.take(&self.path, name(blob, registry))
    }

    /// Blocks. Deletes what nobody has written to for `age`.
    pub(crate) fn expire(&self, age: Duration) -> Result<(), Error> {
        for entry in fs::read_dir(&self.path).at("read", &self.path)? {
            let entry = entry.at("read", &self.path)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let blob = name.strip_suffix(".map").unwrap_or(&name);
            if blob == "boot" || self.claims.has(blob) {
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
}

fn name(blob: &Blob, registry: &str) -> (String, u64) {
    let digest = blob.digest.to_string().replace(':', "-");
    let registry = Digest::of(registry.as_bytes()).hex();
    (
        format!("{digest}-{}-{}", blob.size, &registry[..16]),
        blob.size,
    )
}

fn clear(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.at("delete", path),
    }
}
