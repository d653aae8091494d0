//! Network configurations (CNI spec 1.1, section 1): a list of plugins under a name.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// Those whose results have a list of addresses.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

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
    /// Reads a list, or one plugin without a list (`.conf`).
    pub(crate) fn parse(value: &Value, file: Option<&Path>) -> Result<Self> {
        let invalid = |reason: String| Error::Configuration {
            file: file_name(file),
            reason,
        };
        let name = value["name"].as_str().unwrap_or_default();
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(invalid(format!("name {name:?} is not a network's name")));
        }
        let version = value["cniVersion"].as_str().unwrap_or_default();
        if !VERSIONS.contains(&version) {
            let known = "is not one of 0.3.0 to 1.1.0";
            return Err(invalid(format!("cniVersion {version:?} {known}")));
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
    (!kind.is_empty() && !kind.contains('/') && !kind.starts_with('.')).then_some(plugin)
}

fn file_name(file: Option<&Path>) -> String {
    file.map_or_else(|| "(embedded)".into(), |file| file.display().to_string())
}

/// The plugin's `type`, which is its program's name.
pub(crate) fn kind(plugin: &Map<String, Value>) -> &str {
    plugin
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_not_a_path() {
        for plugins in [
            json!([{ "type": "../evil" }]),
            json!([{ "type": ".." }]),
            json!([{}]),
            json!([]),
            json!(["bridge"]),
        ] {
            let list = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": plugins });
            assert!(Conflist::parse(&list, None).is_err(), "{list}");
        }
    }

    #[test]
    fn versions_are_those_with_lists() {
        let parse = |version: &str| {
            Conflist::parse(
                &json!({ "name": "n", "cniVersion": version, "type": "x" }),
                None,
            )
        };
        for version in VERSIONS {
            assert_eq!(parse(version).unwrap().version, version);
        }
        for version in ["", "9", "0.2.0"] {
            let told = parse(version).unwrap_err().to_string();
            assert!(told.contains("0.3.0 to 1.1.0"), "{told}");
        }
    }
}
