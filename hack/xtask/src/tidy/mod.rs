//! The tree's rules as tests: what the compiler and clippy cannot see.
//!
//! A rule is a pure function from the [`Tree`] to its findings. Each has two tests: the repository has
//! no finding, and a small broken tree has exactly the findings it should.

mod tree;

mod mask;

mod arrows;
mod manifests;
mod rpc_table;
mod security;
mod sources;

use tree::{Finding, Tree};

/// Fails with one line per finding, each with file and line.
#[track_caller]
fn assert_clean(rule: fn(&Tree) -> Vec<Finding>) {
    let findings = rule(&Tree::of_the_repository());
    assert!(findings.is_empty(), "{}", in_lines(&findings));
}

/// Compares a rule's findings on a made-up tree, as text.
#[track_caller]
fn assert_findings(rule: fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)], want: &[&str]) {
    let got = in_lines(&rule(&Tree::of(files)));
    assert_eq!(got, want.join("\n"));
}

fn in_lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
