//! Versions of CDI files, and what each was the first to have.
//!
//! Rule: Container Device Interface, SPEC.md, "Released versions": a file that uses what its version does not have is not
//! loaded.

use super::document::{Document, Edits};

/// Those that there are, oldest first.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];
/// Of the first release of the specification. No file has an older one.
const OLDEST: &str = "0.3.0";

/// # Errors
/// A version that is not known, or too old for what the document has.
pub(super) fn check(document: &Document) -> Result<(), String> {
    let told = &document.cdi_version;
    // The reference takes a "v" before it.
    let version = told.strip_prefix('v').unwrap_or(told);
    let place = |version| VERSIONS.iter().position(|known| *known == version);
    let Some(at) = place(version) else {
        let newest = VERSIONS[VERSIONS.len() - 1];
        return Err(format!(
            "cdiVersion {told:?} is not known: want one up to {newest}"
        ));
    };
    let (needed, what) = needed(document);
    if place(needed).is_some_and(|needed| at < needed) {
        return Err(format!(
            "cdiVersion {told:?} is too old: {what} needs {needed}"
        ));
    }
    Ok(())
}

/// The oldest version that has all of the document, and what needs it.
fn needed(document: &Document) -> (&'static str, &'static str) {
    let of_devices = document
        .devices
        .iter()
        .map(|device| &device.container_edits);
    let edits: Vec<&Edits> = of_devices.chain([&document.container_edits]).collect();
    let any = |test: fn(&Edits) -> bool| edits.iter().any(|edits| test(edits));
    let is_newest = |edits: &Edits| edits.intel_rdt.as_ref().is_some_and(|rdt| rdt.is_of_1_1());
    let annotated = document
        .devices
        .iter()
        .map(|device| &device.annotations)
        .chain([&document.annotations])
        .any(|annotations| annotations.as_ref().is_some_and(|all| !all.is_empty()));
    let class = document.kind.split_once('/').map_or("", |(_, class)| class);
    let is_numbered = |name: &str| name.starts_with(|letter: char| letter.is_ascii_digit());
    let rules = [
        (
            "1.1.0",
            "netDevices",
            any(|edits| !edits.net_devices.is_empty()),
        ),
        (
            "1.1.0",
            "intelRdt with schemata or enableMonitoring",
            any(is_newest),
        ),
        ("0.7.0", "intelRdt", any(|edits| edits.intel_rdt.is_some())),
        (
            "0.7.0",
            "additionalGids",
            any(|edits| !edits.additional_gids.is_empty()),
        ),
        ("0.6.0", "annotations", annotated),
        ("0.6.0", "a dot in the class of kind", class.contains('.')),
        (
            "0.5.0",
            "a device's name that begins with a digit",
            document
                .devices
                .iter()
                .any(|device| is_numbered(&device.name)),
        ),
        (
            "0.5.0",
            "hostPath of deviceNodes",
            any(|edits| {
                edits
                    .device_nodes
                    .iter()
                    .any(|node| !node.host_path.is_empty())
            }),
        ),
        (
            "0.4.0",
            "type of mounts",
            any(|edits| edits.mounts.iter().any(|mount| !mount.r#type.is_empty())),
        ),
    ];
    let used = rules.into_iter().find(|(_, _, is_used)| *is_used);
    used.map_or((OLDEST, "every file"), |(version, what, _)| (version, what))
}

#[cfg(test)]
mod tests {
    use crate::cdi::document::parse;

    /// A document of `version` that has `edits`.
    fn read(version: &str, kind: &str, name: &str, edits: &str, more: &str) -> Result<(), String> {
        let text = format!(
            r#"{{"cdiVersion": "{version}", "kind": "{kind}", {more}
                "devices": [{{"name": "{name}", "containerEdits": {{"env": ["A=b"] {edits}}}}}]}}"#
        );
        parse(text.as_bytes(), false).map(drop)
    }

    /// It takes `needed`, and no version before.
    #[track_caller]
    fn needs(before: &str, needed: &str, kind: &str, name: &str, edits: &str, more: &str) {
        let reason = read(before, kind, name, edits, more).unwrap_err();
        assert!(reason.contains(&format!("needs {needed}")), "{reason}");
        read(needed, kind, name, edits, more).unwrap();
        read("1.1.0", kind, name, edits, more).unwrap();
    }

    #[test]
    fn what_a_version_does_not_have_is_refused_in_its_files() {
        let edits = |before, needed, edits| needs(before, needed, "v/c", "x", edits, "");
        edits("0.2.0", "0.3.0", "");
        edits(
            "0.3.0",
            "0.4.0",
            r#", "mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "bind"}]"#,
        );
        edits(
            "0.4.0",
            "0.5.0",
            r#", "deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/y"}]"#,
        );
        edits("0.6.0", "0.7.0", r#", "additionalGids": [7]"#);
        edits("0.6.0", "0.7.0", r#", "intelRdt": {"closID": "x"}"#);
        edits("1.0.0", "1.1.0", r#", "intelRdt": {"schemata": []}"#);
        edits(
            "1.0.0",
            "1.1.0",
            r#", "intelRdt": {"enableMonitoring": true}"#,
        );
        edits(
            "1.0.0",
            "1.1.0",
            r#", "netDevices": [{"hostInterfaceName": "a", "name": "b"}]"#,
        );
        needs("0.4.0", "0.5.0", "v/c", "0", "", "");
        needs("0.5.0", "0.6.0", "v/c.d", "x", "", "");
        needs(
            "0.5.0",
            "0.6.0",
            "v/c",
            "x",
            "",
            r#""annotations": {"a": "b"},"#,
        );
        needs(
            "0.6.0",
            "0.7.0",
            "v/c",
            "x",
            "",
            r#""containerEdits": {"additionalGids": [7]},"#,
        );
    }

    #[test]
    fn versions_may_have_a_v() {
        assert!(read("v0.6.0", "v/c", "x", "", "").is_ok());
        for version in ["", "v", "vv0.6.0", "0.6", "9.0.0"] {
            let reason = read(version, "v/c", "x", "", "").unwrap_err();
            assert!(reason.contains("is not known"), "{reason}");
        }
    }
}
