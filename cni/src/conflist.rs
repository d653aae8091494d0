//! Network configurations (CNI spec 1.1, section 1): a list of plugins under a name.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Result},
    result::{UNNAMED, VERSIONS},
};

/// A valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conflist {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) plugins: Vec<Map<String, Value>>,
    /// `None` for the embedded one.
    pub(crate) file: Option<PathBuf>,
    /// Plugins of other files are not part of it.
    pub(crate) is_whole: bool,
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
        let version = version(value).map_err(invalid)?;
        for key in ["disableCheck", "disableGC"] {
            flag(value, key).map_err(invalid)?;
        }
        let is_list = value["type"].is_null() || !value["plugins"].is_null();
        let is_whole = !is_list || flag(value, "loadOnlyInlinedPlugins").map_err(invalid)?;
        let plugins = match (&value["plugins"], is_list) {
            (Value::Array(plugins), _) => plugins.clone(),
            (Value::Null, false) => vec![value.clone()],
            // Those of other files may be all.
            (Value::Null, true) if !is_whole => Vec::new(),
            _ => return Err(invalid("it has neither plugins nor a type".into())),
        };
        let plugins: Option<Vec<_>> = plugins.into_iter().map(plugin).collect();
        Ok(Self {
            name: name.into(),
            version: version.into(),
            plugins: plugins.ok_or_else(|| invalid("a plugin has no type".into()))?,
            file: file.map(Path::to_owned),
            is_whole,
        })
    }

    /// Adds a plugin of a file of its own.
    pub(crate) fn push(&mut self, value: Value, file: &Path) -> Result<()> {
        let plugin = plugin(value).ok_or_else(|| Error::Configuration {
            file: file.display().to_string(),
            reason: "it has no type".into(),
        })?;
        self.plugins.push(plugin);
        Ok(())
    }

    /// Refuses what no pod is to be attached with: a list of no plugin, and a name that plugins refuse (CNI spec 1.1, section
    /// 1, `name`).
    pub(crate) fn check(self) -> Result<Self> {
        let name = &self.name;
        let is_fit = |char: char| char.is_ascii_alphanumeric() || "_.-".contains(char);
        let asks_wrongly = |plugin: &&Map<String, Value>| {
            plugin.get("capabilities").is_some_and(|asked| {
                let flags = asked
                    .as_object()
                    .map(|asked| asked.values().all(Value::is_boolean));
                !asked.is_null() && flags != Some(true)
            })
        };
        let reason = if self.plugins.is_empty() {
            "it has no plugins".into()
        } else if !name.starts_with(|char: char| char.is_ascii_alphanumeric())
            || !name.chars().all(is_fit)
        {
            format!("name {name:?} is not letters, digits and '_', '.', '-' after the first")
        } else if let Some(plugin) = self.plugins.iter().find(asks_wrongly) {
            let kind = kind(plugin);
            format!("capabilities of plugin {kind:?} are not names that are true or false")
        } else {
            return Ok(self);
        };
        let file = self.file_name();
        Err(Error::Configuration { file, reason })
    }

    /// The list as it is cached.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "cniVersion": self.version, "name": self.name, "plugins": self.plugins })
    }

    pub(crate) fn file_name(&self) -> String {
        file_name(self.file.as_deref())
    }
}

/// Highest version that the configuration names and that is known here (CNI spec 1.1, section 1, "Version considerations").
fn version(value: &Value) -> Result<&'static str, String> {
    let mut named = Vec::new();
    match &value["cniVersion"] {
        Value::Null => {}
        Value::String(version) if version.is_empty() => {}
        Value::String(version) => named.push(version.as_str()),
        other => return Err(format!("cniVersion {other} is not text")),
    }
    match &value["cniVersions"] {
        Value::Null => {}
        Value::Array(versions) => {
            let versions: Option<Vec<_>> = versions.iter().map(Value::as_str).collect();
            named.extend(versions.ok_or("cniVersions is not a list of texts")?);
        }
        _ => return Err("cniVersions is not a list of texts".into()),
    }
    if named.is_empty() {
        return Ok(UNNAMED);
    }
    let mut known = VERSIONS.into_iter().rev();
    known
        .find(|version| named.contains(version))
        .ok_or_else(|| {
            format!(
                "cniVersion {} is not one of 0.1.0 to 1.1.0",
                named.join(", ")
            )
        })
}

/// A boolean, or its name in any case, as the reference library takes it.
fn flag(value: &Value, key: &str) -> Result<bool, String> {
    match &value[key] {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(format!("{key} {other} is neither true nor false")),
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
            json!({}),
        ] {
            let list = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": plugins });
            let parsed = Conflist::parse(&list, None).and_then(Conflist::check);
            assert!(parsed.is_err(), "{list}");
        }
    }

    fn parse(more: Value) -> Result<Conflist> {
        let mut list = json!({ "name": "n", "type": "x" });
        list.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Conflist::parse(&list, None)
    }

    #[test]
    fn every_version_is_taken_and_none_is_the_first() {
        for version in VERSIONS {
            let list = parse(json!({ "cniVersion": version })).unwrap();
            assert_eq!(list.version, version);
        }
        for none in [json!({}), json!({ "cniVersion": "" })] {
            assert_eq!(parse(none).unwrap().version, "0.1.0");
        }
        for version in ["9", "1.0", "1.2.0"] {
            let told = parse(json!({ "cniVersion": version })).unwrap_err();
            let told = told.to_string();
            assert!(told.contains("0.1.0 to 1.1.0"), "{told}");
        }
        for more in [
            json!({ "cniVersion": 1 }),
            json!({ "cniVersions": "1.0.0" }),
        ] {
            assert!(parse(more.clone()).is_err(), "{more}");
        }
    }

    #[test]
    fn the_highest_known_of_several_versions_counts() {
        for (more, want) in [
            (
                json!({ "cniVersions": ["0.3.1", "1.1.0", "0.4.0"] }),
                "1.1.0",
            ),
            (
                json!({ "cniVersion": "1.0.0", "cniVersions": ["0.4.0"] }),
                "1.0.0",
            ),
            (
                json!({ "cniVersion": "1.2.0", "cniVersions": ["1.0.0"] }),
                "1.0.0",
            ),
        ] {
            assert_eq!(parse(more).unwrap().version, want);
        }
    }

    #[test]
    fn names_are_those_that_plugins_take() {
        for (name, good) in [
            ("k8s-pod_net.1", true),
            ("", false),
            ("a b", false),
            ("-a", false),
            ("../a", false),
        ] {
            let parsed = parse(json!({ "name": name })).and_then(Conflist::check);
            assert_eq!(parsed.is_ok(), good, "{name}");
        }
    }

    #[test]
    fn capabilities_are_true_or_false() {
        for (capabilities, good) in [
            (json!({ "portMappings": true, "mac": false }), true),
            (json!(null), true),
            (json!({ "portMappings": "true" }), false),
            (json!(["portMappings"]), false),
        ] {
            let parsed = parse(json!({ "capabilities": capabilities })).and_then(Conflist::check);
            assert_eq!(parsed.is_ok(), good, "{capabilities}");
        }
    }

    #[test]
    fn flags_are_taken_as_text_too() {
        for (more, good) in [
            (json!({ "disableCheck": "True", "disableGC": true }), true),
            (json!({ "disableCheck": "maybe" }), false),
            (json!({ "disableGC": 1 }), false),
        ] {
            assert_eq!(parse(more.clone()).is_ok(), good, "{more}");
        }
    }
}
