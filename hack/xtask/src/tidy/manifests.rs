//! Rules on manifests: one lint table, one licence.

use toml::{Table, Value};

use super::tree::{Finding, Tree, line_of};
use super::{assert_clean, assert_findings};

/// Its lints repeat the workspace's, since inheriting admits no exception.
const UNSAFE_MANIFEST: &str = "sys/Cargo.toml";
/// The workspace's lint that sys does without.
const UNSAFE_LINT: &str = "unsafe_code";

/// Manifests of the workspace's packages, parsed.
fn packages(tree: &Tree) -> Vec<(&str, &str, Table)> {
    tree.with_extension("toml")
        .filter(|(path, _)| path.ends_with("/Cargo.toml"))
        .map(|(path, text)| (path, text, text.parse::<Table>().unwrap()))
        // One that is a workspace of its own has nothing to inherit.
        .filter(|(_, _, manifest)| {
            manifest.contains_key("package") && !manifest.contains_key("workspace")
        })
        .collect()
}

fn lints(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text, manifest) in packages(tree) {
        if path == UNSAFE_MANIFEST {
            findings.extend(repeated_lints(tree, text, &manifest));
        } else if !inherits(&manifest, "lints") {
            let line = line_of(text, |line| line.starts_with("[lints"));
            findings.push(Finding::at(
                path,
                line,
                "`[lints]` is not `workspace = true`",
            ));
        }
    }
    findings
}

fn inherits(table: &Table, key: &str) -> bool {
    table
        .get(key)
        .and_then(|value| value.get("workspace"))
        .and_then(Value::as_bool)
        == Some(true)
}

fn repeated_lints(tree: &Tree, text: &str, manifest: &Table) -> Vec<Finding> {
    let workspace: Table = tree.file("Cargo.toml").unwrap().parse().unwrap();
    let mut findings = Vec::new();
    for (tool, table) in workspace["workspace"]["lints"].as_table().unwrap() {
        for (lint, level) in table.as_table().unwrap() {
            let own = manifest
                .get("lints")
                .and_then(|lints| lints.get(tool)?.get(lint));
            if lint != UNSAFE_LINT && own != Some(level) {
                let line = line_of(text, |line| line == format!("[lints.{tool}]"));
                let message = format!("lint `{lint}` is not {level}, as in the workspace");
                findings.push(Finding::at(UNSAFE_MANIFEST, line, message));
            }
        }
    }
    findings
}

fn licences(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text, manifest) in packages(tree) {
        for key in ["license", "rust-version", "edition", "publish"] {
            if !inherits(manifest["package"].as_table().unwrap(), key) {
                let line = line_of(text, |line| line == "[package]");
                let message = format!("`{key}` is not inherited from the workspace");
                findings.push(Finding::at(path, line, message));
            }
        }
    }
    findings
}

#[test]
fn every_crate_has_the_workspaces_lints() {
    assert_clean(lints);
}

#[test]
fn every_crate_has_the_workspaces_licence() {
    assert_clean(licences);
}

#[test]
fn the_licence_lies_at_the_top() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../LICENSE");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("LICENSE: {error}"));
    assert!(text.contains("Apache License") && text.contains("Version 2.0, January 2004"));
}

#[test]
fn lints_of_ones_own_are_found() {
    let workspace = "[workspace.lints.rust]\nunsafe_code = \"deny\"\n\
                     [workspace.lints.clippy]\ntodo = \"deny\"\nexit = \"deny\"\n";
    assert_findings(
        lints,
        &[
            ("Cargo.toml", workspace),
            (
                "cni/Cargo.toml",
                "[package]\nname = \"a\"\n[lints.rust]\nunsafe_code = \"allow\"\n",
            ),
            (
                "shim/Cargo.toml",
                "[package]\nname = \"b\"\n[lints]\nworkspace = true\n",
            ),
            (
                "sys/Cargo.toml",
                "[package]\nname = \"c\"\n[lints.clippy]\ntodo = \"deny\"\nexit = \"warn\"\n",
            ),
        ],
        &[
            "cni/Cargo.toml:3: `[lints]` is not `workspace = true`",
            "sys/Cargo.toml:3: lint `exit` is not \"deny\", as in the workspace",
        ],
    );
}

#[test]
fn a_licence_of_ones_own_is_found() {
    let own = "[package]\nlicense = \"MIT\"\nrust-version.workspace = true\n\
               edition.workspace = true\npublish.workspace = true\n";
    assert_findings(
        licences,
        &[("cni/Cargo.toml", own)],
        &["cni/Cargo.toml:1: `license` is not inherited from the workspace"],
    );
}
