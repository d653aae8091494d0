//! The Container Device Interface: files in which vendors describe devices, and what a container with one needs.
//!
//! Rule: Container Device Interface, SPEC.md, 1.0.0. Files are looked at when a container asks for a device, and read again
//! when they have changed. A file that cannot be used is told once in the log, and by Status; others go on.

mod directory;
mod document;
mod injection;
mod name;
mod request;
mod scalar;
mod version;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

pub(crate) use injection::Injection;
pub(crate) use request::{Request, requests};

use self::{
    directory::Files,
    document::{Document, Edits},
};
use crate::spec::Invalid;

/// The devices of this node.
#[derive(Debug)]
pub(crate) struct Cdi {
    /// Later ones win.
    dirs: Vec<PathBuf>,
    /// Held while files are read.
    files: Mutex<Files>,
    /// Of the last look, for those who must not wait.
    faults: RwLock<Vec<String>>,
}

impl Cdi {
    pub(crate) fn new(dirs: Vec<PathBuf>) -> Self {
        Self {
            dirs,
            files: Mutex::default(),
            faults: RwLock::default(),
        }
    }

    /// What a container with these devices gets. Blocks.
    ///
    /// # Errors
    /// A device that no file has, or that cannot be given here.
    pub(crate) fn inject(&self, requests: &[Request]) -> Result<Injection, Invalid> {
        let devices = self.look();
        let mut injection = Injection::default();
        let mut seen: Vec<*const Document> = Vec::new();
        for request in requests {
            let Some(Entry::One {
                document, device, ..
            }) = devices.get(&request.name)
            else {
                return Err(self.unresolved(request));
            };
            let invalid = |reason| {
                let reason = format!("device {}: {reason}", request.name);
                Invalid::new(&request.field, reason)
            };
            // What holds for all devices of a file comes before the first of them.
            if !seen.contains(&Arc::as_ptr(document)) {
                seen.push(Arc::as_ptr(document));
                injection.add(&document.container_edits).map_err(invalid)?;
            }
            let edits: &Edits = &document.devices[*device].container_edits;
            injection.add(edits).map_err(invalid)?;
        }
        Ok(injection)
    }

    /// Reads what has changed. Blocks.
    pub(crate) fn look(&self) -> HashMap<String, Entry> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut faults = files.refresh(&self.dirs);
        let devices = index(&files, &mut faults);
        let mut known = self.faults.write().unwrap_or_else(PoisonError::into_inner);
        for fault in faults.iter().filter(|fault| !known.contains(fault)) {
            tracing::warn!(fault, "a CDI file cannot be used");
        }
        *known = faults;
        devices
    }

    /// What was wrong with files at the last look, in sentences.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.faults
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn unresolved(&self, request: &Request) -> Invalid {
        let dirs: Vec<_> = self
            .dirs
            .iter()
            .map(|dir| dir.display().to_string())
            .collect();
        let mut reason = format!(
            "device {} is in no CDI file in {}",
            request.name,
            dirs.join(", ")
        );
        let faults = self.faults();
        if !faults.is_empty() {
            reason = format!("{reason}; unusable: {}", faults.join("; "));
        }
        Invalid::new(&request.field, reason)
    }
}

/// What is known under a device's name.
#[derive(Debug)]
pub(crate) enum Entry {
    One {
        document: Arc<Document>,
        /// Its place in the document.
        device: usize,
        path: PathBuf,
        priority: usize,
    },
    /// Two files of one directory have it, so that nobody can tell which is meant.
    Ambiguous { priority: usize },
}

impl Entry {
    fn priority(&self) -> usize {
        match self {
            Self::One { priority, .. } | Self::Ambiguous { priority } => *priority,
        }
    }
}

/// Devices by their whole names. Of two files in different directories, that in the later one counts.
fn index(files: &Files, faults: &mut Vec<String>) -> HashMap<String, Entry> {
    let mut devices: HashMap<String, Entry> = HashMap::new();
    for (path, priority, document) in files.documents() {
        for (device, of_file) in document.devices.iter().enumerate() {
            let name = format!("{}={}", document.kind, of_file.name);
            let mut entry = Entry::One {
                document: Arc::clone(document),
                device,
                path: path.to_owned(),
                priority,
            };
            if let Some(other) = devices.get(&name)
                && other.priority() == priority
            {
                if let Entry::One { path: other, .. } = other {
                    let (path, other) = (path.display(), other.display());
                    faults.push(format!("device {name} is in both {other} and {path}"));
                }
                entry = Entry::Ambiguous { priority };
            }
            devices.insert(name, entry);
        }
    }
    devices
}
