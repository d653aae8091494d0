//! The CDI files of some directories, each read when it is new or has changed.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use corten_sys::open;

use super::document::{self, Document, MAX_BYTES};

/// Files of one directory that are looked at.
const MAX_FILES: usize = 1000;

/// In the order of priority, then of names.
#[derive(Debug, Default)]
pub(super) struct Files(BTreeMap<(usize, PathBuf), Known>);

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    read: Result<Arc<Document>, String>,
}

/// Changes with the content.
#[derive(Debug, PartialEq)]
struct Stamp {
    inode: (u64, u64),
    length: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Files {
    /// Those that can be used, with their priority.
    pub(super) fn documents(&self) -> impl Iterator<Item = (&Path, usize, &Arc<Document>)> {
        let known = self.0.iter();
        known.filter_map(|((priority, path), known)| {
            Some((path.as_path(), *priority, known.read.as_ref().ok()?))
        })
    }

    /// Looks at the directories again. Returns what is wrong, in sentences.
    pub(super) fn refresh(&mut self, dirs: &[PathBuf]) -> Vec<String> {
        let (mut files, mut faults) = (BTreeMap::new(), Vec::new());
        for (priority, dir) in dirs.iter().enumerate() {
            match list(dir) {
                Ok(found) if found.len() > MAX_FILES => {
                    faults.push(format!("{} has more than {MAX_FILES} files", dir.display()));
                }
                Ok(found) => files.extend(found.into_iter().map(|path| ((priority, path), ()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => faults.push(format!("read {}: {error}", dir.display())),
            }
        }
        let old = std::mem::take(&mut self.0);
        let mut old: BTreeMap<_, _> = old.into_iter().collect();
        for (key, ()) in files {
            let known = old.remove(&key);
            match look(&key.1, known) {
                Ok(Some(known)) => {
                    if let Err(reason) = &known.read {
                        faults.push(format!("{}: {reason}", key.1.display()));
                    }
                    self.0.insert(key, known);
                }
                Ok(None) => {}
                Err(error) => faults.push(format!("read {}: {error}", key.1.display())),
            }
        }
        faults
    }
}

/// Files that may be meant (SPEC.md, "CDI JSON Specification"): no directories below.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)?.take(MAX_FILES * 10) {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let meant = path
            .extension()
            .is_some_and(|end| end == "json" || end == "yaml");
        if meant && !hidden {
            found.push(path);
        }
    }
    Ok(found)
}

/// `None`: it is no file, or no longer there.
fn look(path: &Path, known: Option<Known>) -> io::Result<Option<Known>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if let Some(known) = known.filter(|known| known.stamp == Stamp::of(&metadata)) {
        return Ok(Some(known));
    }
    let file = open::regular_file(path)?;
    // Of what is read: it may be replaced at any moment.
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    let is_yaml = path.extension().is_some_and(|end| end == "yaml");
    let read = document::parse(&bytes, is_yaml).map(Arc::new);
    Ok(Some(Known { stamp, read }))
}
