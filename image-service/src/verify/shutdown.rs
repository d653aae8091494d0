//! Whether the machine went down while the store was in use.
//!
//! `<root>/clean` exists between an orderly stop of the daemon and its next start.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use corten_sys::private;

use crate::error::{At as _, Error};

/// Layers this much older than the newest had time to reach the disk. Unit: seconds.
pub(crate) const RECENT: u64 = 600;

#[derive(Debug)]
pub(crate) struct Shutdown {
    mark: PathBuf,
    root: PathBuf,
}

impl Shutdown {
    /// Blocks. Second: whether the last stop was orderly; from now on it is not, until [`Shutdown::complete`].
    pub(crate) fn begin(root: &Path) -> Result<(Self, bool), Error> {
        let mark = root.join("clean");
        let was_clean = match fs::remove_file(&mark) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error).at("delete", &mark),
        };
        let shutdown = Self {
            mark,
            root: root.to_owned(),
        };
        shutdown.sync()?;
        Ok((shutdown, was_clean))
    }

    /// Blocks. What was pulled was made durable then.
    pub(crate) fn complete(&self) -> Result<(), Error> {
        private::create(&self.mark).at("make", &self.mark)?;
        self.sync()
    }

    fn sync(&self) -> Result<(), Error> {
        let root = File::open(&self.root).at("open", &self.root)?;
        root.sync_all().at("fsync", &self.root)
    }
}
