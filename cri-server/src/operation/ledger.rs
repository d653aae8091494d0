//! The ledger: what an operation is about to create is on disk before it creates it.
//!
//! One file an operation, `<root>/operations/<id>`. It goes when the object's own record is there or everything is undone;
//! one that is found at the start belongs to a daemon that was killed, and is undone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use corten_proto::record::Operation;
use corten_sys::private;

use crate::{
    error::{At, Result},
    record_file,
};

#[derive(Debug)]
pub(crate) struct Ledger {
    dir: PathBuf,
}

/// An operation that is written down.
#[derive(Debug)]
pub(crate) struct Entry {
    path: PathBuf,
    /// The object's own, in the daemon that writes it.
    record: Option<PathBuf>,
}

impl Ledger {
    /// Opens `<root>/operations`.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let dir = root.join("operations");
        private::close_dir_all(&dir).at("create", &dir)?;
        Ok(Self { dir })
    }

    /// Writes down what `operation` will create for the object `id`, whose record will be at `record`.
    pub(crate) fn begin(&self, id: &str, record: PathBuf, operation: &Operation) -> Result<Entry> {
        let path = self.dir.join(id);
        record_file::write(&path, operation)?;
        let record = Some(record);
        Ok(Entry { path, record })
    }

    /// What an earlier daemon left unfinished; entries that cannot be read are told apart.
    pub(crate) fn unfinished(&self) -> Result<Vec<(Entry, Result<Operation>)>> {
        let mut found = Vec::new();
        for file in fs::read_dir(&self.dir).at("list", &self.dir)? {
            let path = file.at("list", &self.dir)?.path();
            if path.extension().is_some() {
                // Not renamed yet, so nothing was created.
                record_file::remove(&path)?;
                continue;
            }
            let operation = record_file::read(&path);
            let record = None;
            found.push((Entry { path, record }, operation));
        }
        Ok(found)
    }
}

impl Entry {
    /// The operation has failed after all. Without its record the object is not taken for made by a later daemon, should this
    /// one be killed while it undoes.
    pub(super) fn revoke(&self) -> Result<()> {
        self.record.as_deref().map_or(Ok(()), record_file::remove)
    }

    /// The operation is over: its object is recorded, or nothing of it is left.
    pub(crate) fn close(self) -> Result<()> {
        record_file::remove(&self.path)
    }

    /// The object's.
    pub(crate) fn id(&self) -> Option<&str> {
        self.path.file_name()?.to_str()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
