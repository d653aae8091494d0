//! Which crate may depend on which, and which foreign crates stay out of which of ours.

use std::collections::BTreeSet;

use toml::Table;

use super::tree::{Finding, Tree, line_of};
use super::{assert_clean, assert_findings};

/// What may be said of one crate's dependencies.
struct Arrows {
    folder: &'static str,
    /// All crates of ours that it may use.
    ours: &'static [&'static str],
    /// Foreign crates it may never use, for the crate's own reason.
    never: &'static [&'static str],
}

/// The table of ARCHITECTURE.md. The shim has one thread and parses no JSON; sys knows only the kernel.
const ARROWS: [Arrows; 9] = [
    Arrows {
        folder: "cri-server",
        ours: &["corten-cni", "corten-image", "corten-proto", "corten-sys"],
        never: &[],
    },
    Arrows {
        folder: "shim",
        ours: &["corten-proto", "corten-sys"],
        never: &[
            "hyper",
            "oci-spec",
            "serde",
            "serde_json",
            "tokio",
            "tonic",
            "tracing",
        ],
    },
    Arrows {
        folder: "image-service",
        ours: &["corten-sys"],
        never: &["tonic"],
    },
    Arrows {
        folder: "cni",
        ours: &["corten-sys"],
        never: &["tonic"],
    },
    Arrows {
        folder: "proto",
        ours: &[],
        never: &["tokio"],
    },
    Arrows {
        folder: "sys",
        ours: &[],
        never: &["prost", "serde", "serde_json", "tokio", "tonic", "tracing"],
    },
    Arrows {
        folder: "hack/xtask",
        ours: &[],
        never: &["tokio", "tonic"],
    },
    Arrows {
        folder: "test",
        ours: &["corten-proto"],
        never: &[],
    },
    Arrows {
        folder: "test/probe",
        ours: &["corten-sys"],
        never: &["serde", "serde_json", "tokio"],
    },
];

fn dependencies(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for arrows in &ARROWS {
        let path = format!("{}/Cargo.toml", arrows.folder);
        let Some(text) = tree.file(&path) else {
            continue;
        };
        let manifest: Table = text.parse().unwrap();
        let used = used_crates(&manifest);
        let line = |name: &str| line_of(text, |line| line.starts_with(name));

        for name in used.iter().filter(|name| name.starts_with("corten-")) {
            if !arrows.ours.contains(name) {
                let message = format!("{} may not depend on {name}", arrows.folder);
                findings.push(Finding::at(&path, line(name), message));
            }
        }
        for name in arrows.never.iter().filter(|name| used.contains(*name)) {
            let message = format!("{} does without {name}", arrows.folder);
            findings.push(Finding::at(&path, line(name), message));
        }
    }
    findings
}

/// Names in every dependency table of the manifest. Tests and build scripts keep to the arrows too.
fn used_crates(manifest: &Table) -> BTreeSet<&str> {
    let targets = manifest
        .get("target")
        .and_then(|targets| targets.as_table());
    let per_target = targets.into_iter().flat_map(|targets| targets.values());
    let tables = [manifest]
        .into_iter()
        .chain(per_target.filter_map(|target| target.as_table()));
    tables
        .flat_map(|table| {
            ["dependencies", "dev-dependencies", "build-dependencies"]
                .into_iter()
                .filter_map(|name| table.get(name)?.as_table())
        })
        .flat_map(|dependencies| dependencies.keys().map(String::as_str))
        .collect()
}

/// The shim speaks protobuf, and no gRPC code may come into it.
fn shim_without_grpc(tree: &Tree) -> Vec<Finding> {
    let path = "shim/Cargo.toml";
    let Some(text) = tree.file(path) else {
        return Vec::new();
    };
    let line = line_of(text, |line| {
        line.starts_with("corten-proto") && line.contains("grpc")
    });
    if line == 0 {
        Vec::new()
    } else {
        vec![Finding::at(
            path,
            line,
            "the shim uses corten-proto without its feature `grpc`",
        )]
    }
}

/// Every member is in the table above, so that a new crate cannot escape it.
fn members(tree: &Tree) -> Vec<Finding> {
    let path = "Cargo.toml";
    let Some(text) = tree.file(path) else {
        return Vec::new();
    };
    let manifest: Table = text.parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<&str> = members
        .iter()
        .filter_map(|member| member.as_str())
        .collect();
    let known: BTreeSet<&str> = ARROWS.iter().map(|arrows| arrows.folder).collect();
    let line = line_of(text, |line| line.starts_with("members"));
    members
        .symmetric_difference(&known)
        .map(|folder| {
            let message = format!("{folder} is in only one of `members` and the table of arrows");
            Finding::at(path, line, message)
        })
        .collect()
}

#[test]
fn every_arrow_is_in_the_design() {
    assert_clean(dependencies);
}

#[test]
fn the_shim_has_no_grpc() {
    assert_clean(shim_without_grpc);
}

#[test]
fn every_member_has_arrows() {
    assert_clean(members);
}

#[test]
fn an_arrow_too_many_is_found() {
    let shim = "[dependencies]\ncorten-sys.workspace = true\ntokio = \"1\"\n\n\
                [dev-dependencies]\ncorten-cni.workspace = true\n";
    assert_findings(
        dependencies,
        &[
            ("shim/Cargo.toml", shim),
            ("proto/Cargo.toml", "[dependencies]\n"),
        ],
        &[
            "shim/Cargo.toml:6: shim may not depend on corten-cni",
            "shim/Cargo.toml:3: shim does without tokio",
        ],
    );
    let hidden = "[target.'cfg(unix)'.dependencies]\ncorten-sys.workspace = true\n";
    assert_findings(
        dependencies,
        &[("proto/Cargo.toml", hidden)],
        &["proto/Cargo.toml:2: proto may not depend on corten-sys"],
    );
}

#[test]
fn grpc_in_the_shim_is_found() {
    let shim = "[dependencies]\ncorten-proto = { workspace = true, features = [\"grpc\"] }\n";
    assert_findings(
        shim_without_grpc,
        &[("shim/Cargo.toml", shim)],
        &["shim/Cargo.toml:2: the shim uses corten-proto without its feature `grpc`"],
    );
}

#[test]
fn a_member_outside_the_table_is_found() {
    let members_and_one = "[workspace]\nmembers = [\"cri-server\", \"shim\", \"image-service\", \
                           \"cni\", \"proto\", \"sys\", \"hack/xtask\", \"test\", \"test/probe\", \"extra\"]\n";
    assert_findings(
        members,
        &[("Cargo.toml", members_and_one)],
        &["Cargo.toml:2: extra is in only one of `members` and the table of arrows"],
    );
}
