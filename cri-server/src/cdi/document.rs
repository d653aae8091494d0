//! A CDI spec file: what it may hold, and what is checked of it (Container Device Interface, SPEC.md, 1.0.0).
//!
//! Self-contained, so that `fuzz/` can have it.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

use super::{
    name::{is_class, is_device, is_vendor},
    scalar::{self, Text},
    version,
};

/// Longest file. Unit: bytes. One for a node full of devices has some 100 KiB.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Permissions of a node that nobody may open.
pub(super) const NO_PERMISSIONS: &str = "none";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Document {
    #[serde(deserialize_with = "scalar::text")]
    pub(super) cdi_version: String,
    /// vendor/class
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) kind: String,
    /// Not looked at.
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, Text>>,
    #[serde(deserialize_with = "scalar::or_default")]
    pub(crate) devices: Vec<Device>,
    /// For every device of the file.
    #[serde(default, deserialize_with = "scalar::or_default")]
    pub(crate) container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Device {
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) name: String,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, Text>>,
    #[serde(deserialize_with = "scalar::or_default")]
    pub(crate) container_edits: Edits,
}

/// What becomes of a container that has a device.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Edits {
    /// NAME=value
    #[serde(deserialize_with = "scalar::texts")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "scalar::or_default")]
    pub(crate) device_nodes: Vec<DeviceNode>,
    #[serde(deserialize_with = "scalar::or_default")]
    pub(crate) net_devices: Vec<IgnoredAny>,
    #[serde(deserialize_with = "scalar::or_default")]
    pub(crate) hooks: Vec<Hook>,
    #[serde(deserialize_with = "scalar::or_default")]
    pub(crate) mounts: Vec<Mount>,
    pub(crate) intel_rdt: Option<IntelRdt>,
    #[serde(deserialize_with = "scalar::or_default")]
    pub(crate) additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct DeviceNode {
    /// In the container.
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) path: String,
    /// Empty: as `path`.
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) host_path: String,
    /// b, c, u, p, or empty: as on the host.
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) r#type: String,
    #[serde(deserialize_with = "scalar::or_default")]
    pub(crate) major: i64,
    #[serde(deserialize_with = "scalar::or_default")]
    pub(crate) minor: i64,
    pub(crate) file_mode: Option<u32>,
    /// Made of r, w and m; empty: all; `none`: none.
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) permissions: String,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Mount {
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) host_path: String,
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) container_path: String,
    /// Empty: a bind mount.
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) r#type: String,
    #[serde(deserialize_with = "scalar::texts")]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Hook {
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) hook_name: String,
    #[serde(deserialize_with = "scalar::text")]
    pub(crate) path: String,
    #[serde(rename = "args", deserialize_with = "scalar::texts")]
    _args: Vec<String>,
    #[serde(rename = "env", deserialize_with = "scalar::texts")]
    _env: Vec<String>,
    #[serde(rename = "timeout")]
    _timeout: Option<i64>,
}

/// Of it only what its version depends on: it is refused when it is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IntelRdt {
    schemata: Option<IgnoredAny>,
    #[serde(deserialize_with = "scalar::or_default")]
    enable_monitoring: bool,
}

impl IntelRdt {
    pub(super) fn is_of_1_1(&self) -> bool {
        self.schemata.is_some() || self.enable_monitoring
    }
}

/// Reads the text of a file whose name ends on `.json` or, with `is_yaml`, on `.yaml`.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub(crate) fn parse(bytes: &[u8], is_yaml: bool) -> Result<Document, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    let document: Document = if is_yaml {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        serde_saphyr::from_str_with_options(text, options())
            .map_err(|error| first_line(&error.to_string()))?
    } else {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?
    };
    document.check()?;
    Ok(document)
}

/// Numbers as YAML 1.1 has them, whose octal ones begin with 0 (section "Integer", yaml.org/type/int.html): so does the reader
/// that vendors write for, Go's sigs.k8s.io/yaml, as with a key that is there twice, which it refuses.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { legacy_octal_numbers: true }
}

/// The others draw the place in the file.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl Document {
    fn check(&self) -> Result<(), String> {
        version::check(self)?;
        match self.kind.split_once('/') {
            Some((vendor, class)) if is_vendor(vendor) && is_class(class) => {}
            _ => return Err(format!("kind {:?} is not vendor/class", self.kind)),
        }
        if self.devices.is_empty() {
            return Err("it has no devices".into());
        }
        self.container_edits.check("containerEdits")?;
        let mut names: Vec<&str> = Vec::new();
        for device in &self.devices {
            let name = &device.name;
            if !is_device(name) {
                return Err(format!("{name:?} is not a name of a device"));
            }
            device
                .container_edits
                .check(&format!("containerEdits of device {name:?}"))?;
            if device.container_edits.is_empty() {
                return Err(format!("device {name:?} has no containerEdits"));
            }
            names.push(name);
        }
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("device {:?} is there twice", pair[0])),
            None => Ok(()),
        }
    }
}

impl Edits {
    fn is_empty(&self) -> bool {
        self.env.is_empty()
            && self.device_nodes.is_empty()
            && self.net_devices.is_empty()
            && self.hooks.is_empty()
            && self.mounts.is_empty()
            && self.intel_rdt.is_none()
            && self.additional_gids.is_empty()
    }

    fn check(&self, place: &str) -> Result<(), String> {
        for variable in &self.env {
            let named = variable
                .split_once('=')
                .is_some_and(|(name, _)| !name.is_empty());
            if !named || variable.contains('\0') {
                return Err(format!("{place}: env {variable:?} is not NAME=value"));
            }
        }
        for node in &self.device_nodes {
            node.check()
                .map_err(|what| format!("{place}: deviceNodes: {what}"))?;
        }
        for mount in &self.mounts {
            mount
                .check()
                .map_err(|what| format!("{place}: mounts: {what}"))?;
        }
        Ok(())
    }
}

impl DeviceNode {
    fn check(&self) -> Result<(), String> {
        absolute("path", &self.path)?;
        if !self.host_path.is_empty() {
            absolute("hostPath", &self.host_path)?;
        }
        if !matches!(self.r#type.as_str(), "" | "b" | "c" | "u" | "p") {
            return Err(format!("type {:?} is none of b, c, u and p", self.r#type));
        }
        if self.permissions != NO_PERMISSIONS
            && self.permissions.contains(|letter| !"rwm".contains(letter))
        {
            return Err(format!(
                "permissions {:?} are neither none nor made of r, w and m",
                self.permissions
            ));
        }
        let number = |name: &str, value| match u32::try_from(value) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("{name} {value} is not a device number")),
        };
        number("major", self.major)?;
        number("minor", self.minor)
    }
}

impl Mount {
    fn check(&self) -> Result<(), String> {
        absolute("containerPath", &self.container_path)?;
        match self.r#type.as_str() {
            "tmpfs" if self.host_path.is_empty() || self.host_path == "tmpfs" => Ok(()),
            _ => absolute("hostPath", &self.host_path),
        }
    }
}

fn absolute(name: &str, path: &str) -> Result<(), String> {
    if path.starts_with('/') && !path.contains(['\0', '\n']) {
        Ok(())
    } else {
        Err(format!("{name} {path:?} is not an absolute path"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"cdiVersion": "1.0.0", "kind": "vendor.com/gpu",
        "annotations": {"a": "b"},
        "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/x", "type": "c", "major": 1,
            "minor": 3, "fileMode": 438, "permissions": "rw", "uid": 1, "gid": 2}]}}],
        "containerEdits": {"env": ["A=b"], "additionalGids": [7], "mounts": [{"hostPath": "/a", "containerPath": "/b",
            "options": ["ro"]}], "hooks": [{"hookName": "prestart", "path": "/x", "args": ["x"], "timeout": 1}],
            "intelRdt": {"closID": "x"}}}"#;

    #[test]
    fn a_whole_document_is_read_as_json_and_as_yaml() {
        // JSON is YAML.
        for is_yaml in [false, true] {
            let document = parse(GOOD.as_bytes(), is_yaml).unwrap();
            let node = &document.devices[0].container_edits.device_nodes[0];
            assert_eq!(
                (node.major, node.minor, node.file_mode),
                (1, 3, Some(0o666))
            );
            assert_eq!(document.container_edits.additional_gids, [7]);
            assert_eq!(document.container_edits.hooks[0].hook_name, "prestart");
        }
    }

    #[test]
    fn yaml_as_people_write_it_is_read() {
        let text = "cdiVersion: 0.6.0\nkind: vendor.com/net\ndevices:\n- name: eth1\n  containerEdits:\n    env:\n    - A=1\n\
                    containerEdits:\n  mounts:\n  - hostPath: /a\n    containerPath: /b\n";
        let document = parse(text.as_bytes(), true).unwrap();
        assert_eq!(document.devices[0].container_edits.env, ["A=1"]);
    }

    #[test]
    fn numbers_and_words_are_what_go_reads_them_as() {
        let read = |name: &str, node: &str| {
            let text = format!(
                "cdiVersion: 0.6.0\nkind: a.b/c\ncontainerEdits:\ndevices:\n- name: {name}\n  annotations: {{a: 1, b: yes}}\n  \
                 containerEdits:\n    env:\n    mounts: null\n    deviceNodes:\n    - path: /dev/x\n      hostPath: ~\n      \
                 {node}\n"
            );
            parse(text.as_bytes(), true)
        };
        for (text, want) in [
            ("0640", 0o640),
            ("0o640", 0o640),
            ("0640 # octal", 0o640),
            ("416", 0o640),
            ("0x1a0", 0o640),
            ("0b110100000", 0o640),
            ("0_640", 0o640),
            ("+0640", 0o640),
            ("0", 0),
        ] {
            let document = read("x", &format!("fileMode: {text}")).unwrap();
            let node = &document.devices[0].container_edits.device_nodes[0];
            assert_eq!(node.file_mode, Some(want), "{text}");
            assert_eq!(node.host_path, "");
        }
        let major = read("x", "major: 010").unwrap();
        let node = &major.devices[0].container_edits.device_nodes[0];
        assert_eq!((node.major, node.file_mode), (8, None));
        for bad in ["fileMode: 0648", "fileMode: rw", "major: 1\n      major: 2"] {
            assert!(read("x", bad).is_err(), "{bad}");
        }
        for (text, want) in [
            ("0", "0"),
            ("010", "8"),
            ("'010'", "010"),
            ("\"0\"", "0"),
            ("yes", "true"),
            ("gpu0", "gpu0"),
            ("1_0", "10"),
        ] {
            let document = read(text, "type: c").unwrap();
            assert_eq!(document.devices[0].name, want, "{text}");
        }
        assert!(
            read("", "type: c")
                .unwrap_err()
                .contains("name of a device")
        );
        let json = GOOD
            .replace("\"0\"", "0")
            .replace("[\"A=b\"]", "null")
            .replace("\"rw\"", "null");
        let document = parse(json.as_bytes(), false).unwrap();
        assert_eq!(document.devices[0].name, "0");
        assert!(document.container_edits.env.is_empty());
    }

    #[track_caller]
    fn refused(from: &str, to: &str, want: &str) {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from}");
        let reason = parse(text.as_bytes(), false).unwrap_err();
        assert!(reason.contains(want), "{reason}");
    }

    #[test]
    fn what_is_wrong_is_told() {
        refused("1.0.0", "9.0.0", "cdiVersion \"9.0.0\"");
        refused("vendor.com/gpu", "gpu", "kind \"gpu\"");
        refused("\"kind\"", "\"sort\"", "unknown field `sort`");
        refused("\"name\": \"0\"", "\"name\": \"a b\"", "name of a device");
        refused("A=b", "A", "NAME=value");
        refused("/dev/x", "dev/x", "absolute path");
        refused("\"type\": \"c\"", "\"type\": \"x\"", "type \"x\"");
        refused("\"rw\"", "\"rwx\"", "r, w and m");
        refused("\"major\": 1", "\"major\": -1", "device number");
        refused("\"hostPath\": \"/a\"", "\"hostPath\": \"\"", "hostPath");
    }

    #[test]
    fn devices_have_edits_and_names_of_their_own() {
        let read = |devices: &str| {
            let text =
                format!(r#"{{"cdiVersion": "0.5.0", "kind": "a.b/c", "devices": [{devices}]}}"#);
            parse(text.as_bytes(), false).map_err(|reason| reason.to_string())
        };
        let one = r#"{"name": "x", "containerEdits": {"env": ["A=b"]}}"#;
        assert!(read(one).is_ok());
        assert!(read("").unwrap_err().contains("no devices"));
        let twice = format!("{one}, {one}");
        assert!(read(&twice).unwrap_err().contains("twice"));
        let empty = r#"{"name": "x", "containerEdits": {}}"#;
        assert!(read(empty).unwrap_err().contains("no containerEdits"));
    }

    #[test]
    fn a_small_file_cannot_become_a_large_one() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let below = format!("*a{},", level - 1).repeat(10);
            text += &format!("a{level}: &a{level} [{below}]\n");
        }
        assert!(parse(text.as_bytes(), true).is_err());
        assert!(parse(&vec![b' '; MAX_BYTES + 1], false).is_err());
        assert!(parse("[".repeat(100_000).as_bytes(), true).is_err());
        assert!(parse("[".repeat(100_000).as_bytes(), false).is_err());
    }
}
