//! README's table of RPCs against the CRI and against what the daemon really answers.
//!
//! A row begins with the RPC's name in backticks. An RPC that the daemon leaves to the generated
//! default, which answers `Unimplemented`, says "missing" in its row, and no other row does.

use std::collections::{BTreeMap, BTreeSet};

use super::mask::mask;
use super::tree::{Finding, Tree};
use super::{assert_clean, assert_findings};

const CRI: &str = "proto/runtime/v1/api.proto";
const README: &str = "README.md";
const MISSING: &str = "missing";
/// Where the daemon's two tables of handlers are, and how each begins.
const DAEMON: &str = "cri-server/src/rpc/mod.rs";
const HANDLERS: &str = "\nhandlers!(";

fn table(tree: &Tree) -> Vec<Finding> {
    let (Some(cri), Some(readme)) = (tree.file(CRI), tree.file(README)) else {
        return Vec::new();
    };
    let rows = rows(readme);
    let served = served(tree);
    let mut findings = Vec::new();
    for (line, name) in rpcs(cri) {
        let Some(&(row_line, row)) = rows.get(name) else {
            findings.push(Finding::at(
                CRI,
                line,
                format!("no row for `{name}` in {README}"),
            ));
            continue;
        };
        let says_missing = row.to_lowercase().contains(MISSING);
        if served.contains(&snake_case(name)) == says_missing {
            let truth = if says_missing {
                "is served"
            } else {
                "is not served"
            };
            let advice = if says_missing {
                "not \"missing\""
            } else {
                "\"missing\""
            };
            let message = format!("`{name}` {truth}: its row should say {advice}");
            findings.push(Finding::at(README, row_line, message));
        }
    }
    findings
}

/// RPCs of the CRI with their lines.
fn rpcs(cri: &str) -> impl Iterator<Item = (usize, &str)> {
    cri.lines().enumerate().filter_map(|(index, line)| {
        let (name, _) = line.trim_start().strip_prefix("rpc ")?.split_once('(')?;
        Some((index + 1, name.trim()))
    })
}

/// Rows of Markdown tables by the backticked name in their first column, with their lines.
fn rows(readme: &str) -> BTreeMap<&str, (usize, &str)> {
    let row = |(index, line)| {
        let name = str::strip_prefix(line, "| `")?.split_once('`')?.0;
        Some((name, (index + 1, line)))
    };
    readme.lines().enumerate().filter_map(row).collect()
}

/// Methods in the daemon's tables of handlers, a line each: `version(VersionRequest) -> ...;`.
fn served(tree: &Tree) -> BTreeSet<String> {
    let text = mask(tree.file(DAEMON).unwrap_or_default());
    let tables = text.split(HANDLERS).skip(1);
    let lines = tables.flat_map(|table| table.split("\n});").next().unwrap_or_default().lines());
    let method = |line: &str| Some(line.split_once('(')?.0.trim().to_owned());
    lines.filter_map(method).collect()
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

#[test]
fn the_readme_tells_the_truth_about_every_rpc() {
    assert_clean(table);
}

#[test]
fn the_cri_has_43_rpcs() {
    let tree = Tree::of_the_repository();
    assert_eq!(rpcs(tree.file(CRI).unwrap()).count(), 43);
}

#[test]
fn the_daemon_serves_something() {
    assert!(served(&Tree::of_the_repository()).contains("run_pod_sandbox"));
}

#[test]
fn a_row_that_is_absent_or_false_is_found() {
    let cri = "service RuntimeService {\n  rpc Version(A) returns (B) {}\n  rpc Attach(A) returns (B) {}\n  \
               rpc ExecSync(A) returns (B) {}\n  rpc Status(A) returns (B) {}\n}\n";
    let daemon = "//! Table.\n\nhandlers!(RuntimeService {\n    version(A) -> B;\n    // status(A) -> B;\n    \
                  exec_sync(A) -> B;\n});\n\nfn status(x: u8) {}\n";
    let readme = "# Corten\n\n| RPC | state |\n| --- | --- |\n| `Version` | works |\n\
                  | `ExecSync` | missing |\n| `Status` | works |\n";
    assert_findings(
        table,
        &[(CRI, cri), (DAEMON, daemon), (README, readme)],
        &[
            "proto/runtime/v1/api.proto:3: no row for `Attach` in README.md",
            "README.md:6: `ExecSync` is served: its row should say not \"missing\"",
            "README.md:7: `Status` is not served: its row should say \"missing\"",
        ],
    );
}
