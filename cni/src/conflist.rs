//! Network configurations (CNI spec 1.1, section 1): a list of plugins under a name.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde_json::{Map, Value, json};

use crate::error::{Doing, Error, Result};

/// A larger file is no configuration.
const MAX_FILE: u64 = 1 << 20;
const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conflist {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) plugins: Vec<Map<String, Value>>,
    /// `None` for the embedded one.
    pub(crate) file: Option<PathBuf>,
}

impl Conflist {
    /// Reads a list, or one plugin without a list (`.conf`, before version 0.3).
    pub(crate) fn parse(value: &Value, file: Option<&Path>) -> Result<Self> {
        let invalid = |reason: String| Error::Configuration {
            file: file_name(file),
            reason,
        };
        let name = value["name"].as_str().unwrap_or_default();
        if name.is_empty() || name.contains('/') {
            return Err(invalid(format!("name {name:?} is not a network's name")));
        }
        let version = value["cniVersion"].as_str().unwrap_or("0.2.0");
        if !VERSIONS.contains(&version) {
            return Err(invalid(format!(
                "cniVersion {version:?} is not known: the newest is 1.1.0"
            )));
        }
        let plugins = match (&value["plugins"], value["type"].as_str()) {
            (Value::Array(plugins), _) => plugins.clone(),
            (Value::Null, Some(_)) => vec![value.clone()],
            _ => return Err(invalid("it has neither plugins nor a type".into())),
        };
        let plugins: Option<Vec<_>> = plugins.into_iter().map(plugin).collect();
        match plugins {
            Some(plugins) if !plugins.is_empty() => Ok(Self {
                name: name.into(),
                version: version.into(),
                plugins,
                file: file.map(Path::to_owned),
            }),
            _ => Err(invalid("a plugin has no type, or there is none".into())),
        }
    }

    /// The list as it is cached.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "cniVersion": self.version, "name": self.name, "plugins": self.plugins })
    }

    pub(crate) fn file_name(&self) -> String {
        file_name(self.file.as_deref())
    }
}

fn plugin(value: Value) -> Option<Map<String, Value>> {
    let Value::Object(plugin) = value else {
        return None;
    };
    let kind = plugin.get("type")?.as_str()?;
    // It becomes a file's name.
    (!kind.is_empty() && !kind.contains('/')).then_some(plugin)
}

fn file_name(file: Option<&Path>) -> String {
    file.map_or_else(|| "(embedded)".into(), |file| file.display().to_string())
}

/// The first valid configuration of the directory by name; else why the first of them is not valid.
pub(crate) fn load(dir: &Path) -> Result<Option<Conflist>> {
    let mut first = Ok(None);
    for path in files(dir)? {
        match read(&path) {
            Ok(conflist) => return Ok(Some(conflist)),
            Err(error) => {
                tracing::warn!(error = %error, "a network configuration is passed over");
                if first.is_ok() {
                    first = Err(error);
                }
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
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
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

/// What changes when a configuration does: cheap to find out, so that it is asked every time.
pub(crate) fn fingerprint(dir: &Path) -> Vec<(PathBuf, Option<SystemTime>, u64)> {
    let files = files(dir).unwrap_or_default().into_iter();
    let seen = files.map(|path| {
        let metadata = fs::metadata(&path).ok();
        let changed = metadata
            .as_ref()
            .and_then(|metadata| metadata.modified().ok());
        (path, changed, metadata.map_or(0, |metadata| metadata.len()))
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_valid_file_wins_and_broken_ones_are_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        fs::write(dir.path().join("10-broken.conflist"), "{").unwrap();
        assert!(
            load(dir.path())
                .unwrap_err()
                .to_string()
                .contains("10-broken")
        );
        let good =
            json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "bridge" }] });
        fs::write(dir.path().join("20-good.conflist"), good.to_string()).unwrap();
        fs::write(dir.path().join("00-ignored.txt"), "").unwrap();
        assert_eq!(load(dir.path()).unwrap().unwrap().name, "net");
    }

    #[test]
    fn a_plugin_is_not_a_path() {
        for plugins in [
            json!([{ "type": "../evil" }]),
            json!([{}]),
            json!([]),
            json!(["bridge"]),
        ] {
            assert!(Conflist::parse(&json!({ "name": "n", "plugins": plugins }), None).is_err());
        }
        assert!(
            Conflist::parse(
                &json!({ "name": "n", "cniVersion": "9", "type": "x" }),
                None
            )
            .is_err()
        );
    }
}
