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
use serde_json::Value;

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
    /// The file that the last pods were attached with, if any.
    in_use: Option<PathBuf>,
    /// Directories of plugins, see [`plugins_beside`], that were looked into.
    beside: Vec<PathBuf>,
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
        let is_current = |read: &&Read| read.seen == look(&self.conf_dir, &read.beside);
        if let Some(read) = read.as_ref().filter(is_current) {
            return read.outcome.clone();
        }
        let in_use = read.take().and_then(|read| read.in_use);
        let (mut beside, mut seen) = (Vec::new(), look(&self.conf_dir, &[]));
        let outcome = self.load(in_use.as_deref(), &mut |dir| {
            seen.extend(look(dir, &[]));
            beside.push(dir.to_owned());
        });
        let outcome = outcome.map(Arc::new);
        let file = outcome.as_ref().ok().map(|conflist| conflist.file.clone());
        *read = Some(Read {
            in_use: file.unwrap_or(in_use),
            beside,
            seen,
            outcome: outcome.clone(),
        });
        outcome
    }

    fn load(&self, in_use: Option<&Path>, before: &mut dyn FnMut(&Path)) -> Result<Conflist> {
        match (load(&self.conf_dir, in_use, before)?, &self.dev_network) {
            (Some(conflist), _) => Ok(conflist),
            (None, Some((kept_in, instance))) => dev_network::conflist(instance, kept_in),
            (None, None) => Err(Error::NoConfiguration {
                dir: self.conf_dir.display().to_string(),
            }),
        }
    }
}

/// A configuration that is in use and cannot be read is perhaps being written: pods wait for it, and are not attached to another
/// network instead.
fn load(
    dir: &Path,
    in_use: Option<&Path>,
    before: &mut dyn FnMut(&Path),
) -> Result<Option<Conflist>> {
    let mut first = Ok(None);
    for path in files(dir)? {
        let conflist = read(&path)
            .and_then(|value| Conflist::parse(&value, Some(&path)))
            .and_then(|conflist| plugins_beside(conflist, dir, before))
            .and_then(Conflist::check);
        match conflist {
            Ok(conflist) => return Ok(Some(conflist)),
            Err(error) if in_use == Some(path.as_path()) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a network configuration is passed over");
                first = first.and(Err(error));
            }
        }
    }
    first
}

/// Adds the plugins in the directory beside that bears the network's name, `<name>/*.conf` (CNI spec 1.1, section 1,
/// `loadOnlyInlinedPlugins`). `before` is called with what is about to be read.
fn plugins_beside(
    mut conflist: Conflist,
    dir: &Path,
    before: &mut dyn FnMut(&Path),
) -> Result<Conflist> {
    if conflist.is_whole {
        return Ok(conflist);
    }
    let beside = dir.join(&conflist.name);
    before(&beside);
    let is_plugin = |path: &PathBuf| path.extension().is_some_and(|name| name == "conf");
    for path in files(&beside)?.into_iter().filter(is_plugin) {
        conflist.push(read(&path)?, &path)?;
    }
    Ok(conflist)
}

fn read(path: &Path) -> Result<Value> {
    let doing = || format!("read network configuration {}", path.display());
    let invalid = |reason: String| Error::Configuration {
        file: path.display().to_string(),
        reason,
    };
    let metadata = fs::metadata(path).doing(doing)?;
    // To open a FIFO would wait for its writer.
    if !metadata.is_file() {
        return Err(invalid("it is not a file".into()));
    }
    if metadata.len() > MAX_FILE {
        return Err(invalid(format!("it is larger than {MAX_FILE} bytes")));
    }
    let text = fs::read(path).doing(doing)?;
    serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        result => result.doing(|| format!("list {}", dir.display()))?,
    };
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let mut files: Vec<_> = entries
        .filter_map(io::Result::ok)
        .filter(|entry| !is_directory(entry))
        .map(|entry| entry.path())
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

fn look(dir: &Path, beside: &[PathBuf]) -> Vec<Seen> {
    let dirs = std::iter::once(dir).chain(beside.iter().map(PathBuf::as_path));
    let seen = dirs
        .flat_map(|dir| files(dir).unwrap_or_default())
        .map(|path| {
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
            dir.path().join("15-new.conf"),
            r#"{ "cniVersion": "9.0.0", "name": "new", "type": "bridge" }"#,
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
    fn a_network_in_use_that_is_being_written_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let directory = directory(dir.path());
        let name = || directory.current().map(|conflist| conflist.name.clone());
        write(dir.path(), "10-mine.conflist", "mine");
        write(dir.path(), "90-other.conflist", "other");
        assert_eq!(name().unwrap(), "mine");
        for part in ["", "{", r#"{ "cniVersion": "1.0.0", "plugins": [] }"#] {
            fs::write(dir.path().join("10-mine.conflist"), part).unwrap();
            let told = name().unwrap_err().to_string();
            assert!(told.contains("10-mine"), "{told}");
        }
        write(dir.path(), "10-mine.conflist", "mine again");
        assert!(name().unwrap_err().to_string().contains("mine again"));
        write(dir.path(), "10-mine.conflist", "mine2");
        assert_eq!(name().unwrap(), "mine2");
        // One that is taken away is not waited for.
        fs::remove_file(dir.path().join("10-mine.conflist")).unwrap();
        assert_eq!(name().unwrap(), "other");
    }

    #[test]
    fn plugins_lie_beside_their_list_too() {
        let dir = tempfile::tempdir().unwrap();
        let directory = directory(dir.path());
        let kinds = || {
            let conflist = directory.current().map_err(|error| error.to_string())?;
            let kinds = conflist.plugins.iter().map(crate::conflist::kind);
            Ok::<_, String>(kinds.collect::<Vec<_>>().join(" "))
        };
        let list = |more: &str| {
            let text = format!(r#"{{ "cniVersion": "1.1.0", "name": "net"{more} }}"#);
            fs::write(dir.path().join("10-net.conflist"), text).unwrap();
        };
        list("");
        assert!(kinds().unwrap_err().contains("no plugins"));
        let beside = dir.path().join("net");
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("20-b.conf"), r#"{ "type": "b" }"#).unwrap();
        fs::write(beside.join("10-a.conf"), r#"{ "type": "a" }"#).unwrap();
        fs::write(beside.join("15-no.json"), r#"{ "type": "no" }"#).unwrap();
        assert_eq!(kinds().unwrap(), "a b");
        list(r#", "plugins": [{ "type": "first" }]"#);
        assert_eq!(kinds().unwrap(), "first a b");
        // A change there counts as well.
        fs::write(beside.join("20-b.conf"), "{}").unwrap();
        assert!(kinds().unwrap_err().contains("20-b.conf"));
        fs::remove_file(beside.join("20-b.conf")).unwrap();
        assert_eq!(kinds().unwrap(), "first a");
        list(r#", "loadOnlyInlinedPlugins": true, "plugins": [{ "type": "first" }]"#);
        assert_eq!(kinds().unwrap(), "first");
        list(r#", "loadOnlyInlinedPlugins": true"#);
        assert!(kinds().is_err());
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
