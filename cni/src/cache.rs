//! What each pod was attached with, so that it can be detached when the configuration has changed since.
//!
//! `<cache_dir>/<container id>.json`, written before the first plugin runs and again with the result.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    attachment::Attachment,
    error::{Doing, Error, Result},
};

const MAX_FILE: u64 = 4 << 20;

#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Entry {
    pub(crate) attachment: Attachment,
    pub(crate) conflist: Value,
    /// Null until the attachment was made.
    pub(crate) result: Value,
}

impl Cache {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    pub(crate) fn write(&self, entry: &Entry) -> Result<()> {
        fs::create_dir_all(&self.dir).doing(|| format!("create {}", self.dir.display()))?;
        let path = self.path(&entry.attachment.container_id);
        let aside = path.with_extension("new");
        let bytes = serde_json::to_vec(entry)
            .map_err(io::Error::other)
            .doing(|| "encode an attachment".into())?;
        fs::write(&aside, bytes).doing(|| format!("write {}", aside.display()))?;
        fs::rename(&aside, &path).doing(|| format!("rename to {}", path.display()))
    }

    /// What the pod was attached with, if it is known.
    pub(crate) fn read(&self, id: &str) -> Result<Option<Entry>> {
        let path = self.path(id);
        let doing = || format!("read {}", path.display());
        let size = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.doing(doing)?.len(),
        };
        if size > MAX_FILE {
            return Err(Error::Configuration {
                file: path.display().to_string(),
                reason: "it is too large".into(),
            });
        }
        let bytes = fs::read(&path).doing(doing)?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(io::Error::other)
            .doing(doing)
    }

    /// Removes the entry, and what a killed daemon has left of writing it.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id);
        for path in [path.with_extension("new"), path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.doing(|| format!("remove {}", path.display()))?,
            }
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        let is_entry = |path: &Path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        };
        fs::read_dir(&self.dir).map_or(true, |entries| {
            !entries.flatten().any(|entry| is_entry(&entry.path()))
        })
    }
}
