//! The directory of configurations: the first valid one by name counts, and a change counts at once.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    Options,
    conflist::Conflist,
    dev_network,
    error::{Doing, Error, Result},
};

/// A larger file is no configuration.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Directory {
    conf_dir: PathBuf,
    /// Where the embedded network keeps its choice, and whose it is.
    dev_network: Option<(PathBuf, String)>,
    read: Mutex<Option<Read>>,
}

/// What came of reading the directory when it looked like this.
#[derive(Debug)]
struct Read {
    seen: Vec<Seen>,
    outcome: Result<Arc<Conflist>>,
}

/// What changes when a file does, also when another is renamed to its name.
#[derive(Debug, PartialEq)]
struct Seen {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Directory {
    pub(crate) fn new(options: &Options) -> Self {
        let dev_network = options
            .dev_network
            .then(|| (options.cache_dir.clone(), options.instance.clone()));
        Self {
            conf_dir: options.conf_dir.clone(),
            dev_network,
            read: Mutex::default(),
        }
    }

    /// From memory while the directory looks as it did, and so cheap to ask every time.
    ///
    /// # Errors
    /// Why there is no configuration, or what is wrong with the first one when none is valid.
    pub(crate) fn current(&self) -> Result<Arc<Conflist>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = look(&self.conf_dir);
        if let Some(read) = read.as_ref().filter(|read| read.seen == seen) {
            return read.outcome.clone();
        }
        let outcome = self.load().map(Arc::new);
        *read = Some(Read {
            seen,
            outcome: outcome.clone(),
        });
        outcome
    }

    fn load(&self) -> Result<Conflist> {
        match (load(&self.conf_dir)?, &self.dev_network) {
            (Some(conflist), _) => Ok(conflist),
            (None, Some((kept_in, instance))) => dev_network::conflist(instance, kept_in),
            (None, None) => Err(Error::NoConfiguration {
                dir: self.conf_dir.display().to_string(),
            }),
        }
    }
}

fn load(dir: &Path) -> Result<Option<Conflist>> {
    let mut first = Ok(None);
    for path in files(dir)? {
        match read(&path) {
            Ok(conflist) => return Ok(Some(conflist)),
            Err(error) => {
                tracing::warn!(%error, "a network configuration is passed over");
                first = first.and(Err(error));
            }
        }
    }
    first
}

fn read(path: &Path) -> Result<Conflist> {
    let doing = || format!("read network configuration {}", path.display());
    let invalid = |reason: String| Error::Configuration {
        file: path.display().to_string(),
        reason,
    };
    if fs::metadata(path).doing(doing)?.len() > MAX_FILE {
        return Err(invalid(format!("it is larger than {MAX_FILE} bytes")));
    }
    let text = fs::read(path).doing(doing)?;
    let value = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    Conflist::parse(&value, Some(path))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.doing(|| format!("list {}", dir.display()))?,
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_configuration(path))
        .collect();
    files.sort();
    Ok(files)
}

fn is_configuration(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|name| matches!(name, "conflist" | "conf" | "json"))
}

fn look(dir: &Path) -> Vec<Seen> {
    let files = files(dir).unwrap_or_default().into_iter();
    let seen = files.map(|path| {
        let metadata = fs::metadata(&path).ok();
        let of = |read: fn(&fs::Metadata) -> (u64, u64, i64, i64)| metadata.as_ref().map(read);
        let (inode, size, seconds, nanoseconds) =
            of(|file| (file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
                .unwrap_or_default();
        Seen {
            path,
            inode,
            size,
            changed: (seconds, nanoseconds),
        }
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn directory(dir: &Path) -> Directory {
        Directory {
            conf_dir: dir.to_owned(),
            dev_network: None,
            read: Mutex::default(),
        }
    }

    fn write(dir: &Path, file: &str, network: &str) {
        let list =
            json!({ "cniVersion": "1.0.0", "name": network, "plugins": [{ "type": "bridge" }] });
        fs::write(dir.join(file), list.to_string()).unwrap();
    }

    #[test]
    fn the_first_valid_file_wins_and_broken_ones_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let directory = directory(dir.path());
        let told = || directory.current().unwrap_err().to_string();
        assert!(told().contains("no network configuration"), "{}", told());
        fs::write(dir.path().join("10-broken.conflist"), "{").unwrap();
        assert!(told().contains("10-broken"), "{}", told());
        fs::write(
            dir.path().join("15-old.conf"),
            r#"{ "name": "old", "type": "bridge" }"#,
        )
        .unwrap();
        assert!(told().contains("10-broken"), "{}", told());
        write(dir.path(), "20-good.conflist", "good");
        fs::write(dir.path().join("00-ignored.txt"), "").unwrap();
        assert_eq!(directory.current().unwrap().name, "good");
    }

    #[test]
    fn a_change_counts_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let directory = directory(dir.path());
        write(dir.path(), "20-net.conflist", "one");
        let one = directory.current().unwrap();
        assert!(Arc::ptr_eq(&one, &directory.current().unwrap()));
        write(dir.path(), "other", "two");
        fs::rename(dir.path().join("other"), dir.path().join("20-net.conflist")).unwrap();
        assert_eq!(directory.current().unwrap().name, "two");
        write(dir.path(), "10-net.conflist", "three");
        assert_eq!(directory.current().unwrap().name, "three");
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(directory.current().is_err());
    }

    #[test]
    fn a_huge_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let huge = fs::File::create(dir.path().join("10-huge.conflist")).unwrap();
        huge.set_len(MAX_FILE + 1).unwrap();
        let told = directory(dir.path()).current().unwrap_err().to_string();
        assert!(told.contains("larger than"), "{told}");
    }
}
