//! What each pod was attached with, so that it can be detached when the configuration has changed since.
//!
//! ```text
//! <cache_dir>/<container id>.json      from before the first plugin runs, again with the result, and where a DEL has failed
//! <cache_dir>/<container id>.leaving   the plugins have detached it; its link and addresses are on their way back
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use corten_sys::private;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    attachment::Attachment,
    error::{Doing, Error, Result},
};

const MAX_FILE: u64 = 4 << 20;
const ATTACHED: &str = "json";
const LEAVING: &str = "leaving";
/// Half written.
const ASIDE: &str = "new";

#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Entry {
    pub(crate) attachment: Attachment,
    pub(crate) conflist: Value,
    /// Built-in plugins were not run as programs.
    pub(crate) builtin: bool,
    /// The node's pod networks of the day.
    pub(crate) pod_cidrs: Vec<String>,
    /// Null until the attachment was made.
    pub(crate) result: Value,
    #[serde(default)]
    pub(crate) progress: Progress,
}

/// Progress of a DEL that has not succeeded.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) enum Progress {
    #[default]
    Attached,
    /// The pod is to be found in nf_tables no more, or is about to be taken out: a table that is made anew is without it.
    Leaving,
    /// The built-in plugins are done. Addresses, and what leads to them, may be another pod's.
    Released,
}

impl Cache {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, id: &str, extension: &str) -> PathBuf {
        self.dir.join(format!("{id}.{extension}"))
    }

    pub(crate) fn write(&self, entry: &Entry) -> Result<()> {
        private::close_dir_all(&self.dir).doing(|| format!("create {}", self.dir.display()))?;
        let id = &entry.attachment.container_id;
        let (path, aside) = (self.path(id, ATTACHED), self.path(id, ASIDE));
        let bytes = serde_json::to_vec(entry)
            .map_err(io::Error::other)
            .doing(|| "encode an attachment".into())?;
        private::write(&aside, bytes)
            .and_then(|()| fs::rename(&aside, &path))
            .doing(|| format!("write {}", path.display()))
    }

    /// Path of the file that says what the pod was attached with.
    pub(crate) fn file(&self, id: &str) -> String {
        self.path(id, ATTACHED).display().to_string()
    }

    /// What the pod was attached with, if it is known.
    pub(crate) fn read(&self, id: &str) -> Result<Option<Entry>> {
        read(&self.path(id, ATTACHED))
    }

    /// Nothing but [`Self::forget`] is left to do for the pod.
    pub(crate) fn leave(&self, id: &str) -> Result<()> {
        self.forget_aside(id)?;
        let (from, to) = (self.path(id, ATTACHED), self.path(id, LEAVING));
        match fs::rename(&from, &to) {
            // It was done before.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.doing(|| format!("rename {} to {}", from.display(), to.display())),
        }
    }

    /// Removes the pod's files, and what a killed daemon has left of writing them.
    pub(crate) fn forget(&self, id: &str) -> Result<()> {
        for extension in [ASIDE, ATTACHED, LEAVING] {
            remove(&self.path(id, extension))?;
        }
        Ok(())
    }

    /// Removes what a daemon that was killed while it wrote has left aside.
    pub(crate) fn forget_aside(&self, id: &str) -> Result<()> {
        remove(&self.path(id, ASIDE))
    }

    /// Removes the mark of [`Self::leave`].
    pub(crate) fn left(&self, id: &str) -> Result<()> {
        remove(&self.path(id, LEAVING))
    }

    /// Every pod that is attached, but for those whose file cannot be read, and those whose DEL has begun.
    pub(crate) fn attached(&self) -> Vec<Entry> {
        let entries = self.files(ATTACHED).into_iter();
        entries
            .filter_map(|path| read(&path).ok()?)
            .filter(|entry| entry.progress == Progress::Attached)
            .collect()
    }

    /// Everybody who was leaving when the last daemon ended.
    pub(crate) fn leaving(&self) -> Vec<Entry> {
        let entries = self.files(LEAVING).into_iter();
        entries.filter_map(|path| read(&path).ok()?).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.files(ATTACHED).is_empty() && self.files(LEAVING).is_empty()
    }

    fn files(&self, wanted: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == wanted)
            })
            .collect()
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {}", path.display())),
    }
}

fn read(path: &Path) -> Result<Option<Entry>> {
    let doing = || format!("read {}", path.display());
    let broken = |reason| Error::Configuration {
        file: path.display().to_string(),
        reason,
    };
    let size = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.doing(doing)?.len(),
    };
    if size > MAX_FILE {
        return Err(broken(format!("it is larger than {MAX_FILE} bytes")));
    }
    let entry = serde_json::from_slice(&fs::read(path).doing(doing)?);
    entry.map(Some).map_err(|error| broken(error.to_string()))
}
