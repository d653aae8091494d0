//! The ledger: what an operation is about to create is on disk before it creates it.
//!
//! One file an operation, `<root>/operations/<id>`. It goes when the object's own record is there or everything is undone;
//! one that is found at the start belongs to a daemon that was killed, and is undone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use corten_proto::record::{Operation, Resource};
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
}

impl Ledger {
    /// Opens `<root>/operations`.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let dir = root.join("operations");
        private::close_dir_all(&dir).at("create", &dir)?;
        Ok(Self { dir })
    }

    /// Writes down that `name` will create `resources` for the object `id`.
    pub(crate) fn begin(&self, name: &str, id: &str, resources: &[Resource]) -> Result<Entry> {
        let path = self.dir.join(id);
        record_file::write(
            &path,
            &Operation {
                name: name.into(),
                resources: resources.to_vec(),
            },
        )?;
        Ok(Entry { path })
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
            found.push((Entry { path }, operation));
        }
        Ok(found)
    }
}

impl Entry {
    /// The operation is over: its object is recorded, or nothing of it is left.
    pub(crate) fn close(self) -> Result<()> {
        record_file::remove(&self.path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
