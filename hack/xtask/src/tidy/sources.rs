//! Rules on Rust source: what may not be written, how long a file may be, how a crate begins.

use super::mask::mask;
use super::tree::{Finding, Tree, line_of};
use super::{assert_clean, assert_findings};

/// Lines a file may have, tests included.
const MAX_LINES: usize = 500;
/// The one folder whose crate may hold unsafe code.
const UNSAFE_FOLDER: &str = "sys/";
/// Names that say nothing about what is in a file.
const EMPTY_NAMES: [&str; 5] = ["common", "helpers", "misc", "util", "utils"];

/// A word that no code may hold, where it is allowed, and why it is not elsewhere.
struct Banned {
    word: &'static str,
    allowed_in: Option<&'static str>,
    reason: &'static str,
}

const BANNED: [Banned; 4] = [
    Banned {
        word: "unsafe",
        allowed_in: Some(UNSAFE_FOLDER),
        reason: "unsafe code lives in sys/ only; give sys a safe function for it",
    },
    Banned {
        word: "#[ignore",
        allowed_in: None,
        reason: "a test that cannot run says so itself",
    },
    Banned {
        word: "todo!",
        allowed_in: None,
        reason: "unfinished code answers with an error",
    },
    Banned {
        word: "unimplemented!",
        allowed_in: None,
        reason: "unfinished code answers with an error",
    },
];

fn banned_words(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_extension("rs") {
        for (index, line) in mask(text).lines().enumerate() {
            for banned in &BANNED {
                let allowed = banned
                    .allowed_in
                    .is_some_and(|folder| path.starts_with(folder));
                if !allowed && has_word(line, banned.word) {
                    let message = format!("`{}`: {}", banned.word, banned.reason);
                    findings.push(Finding::at(path, index + 1, message));
                }
            }
        }
    }
    findings
}

/// Whether `line` holds `word` and not merely a longer identifier around it.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at]
            .chars()
            .next_back()
            .filter(|_| !word.starts_with('#'));
        let after = line[at + word.len()..]
            .chars()
            .next()
            .filter(|_| !word.ends_with('!'));
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}

fn long_files(tree: &Tree) -> Vec<Finding> {
    let too_long = |(path, text): (&str, &str)| {
        let lines = text.lines().count();
        let message = format!("{lines} lines, at most {MAX_LINES}: split it by subject");
        (lines > MAX_LINES).then(|| Finding::at(path, MAX_LINES + 1, message))
    };
    tree.with_extension("rs").filter_map(too_long).collect()
}

/// The doc comes first, after inner attributes at most.
fn module_docs(tree: &Tree) -> Vec<Finding> {
    let has_doc = |text: &str| {
        let mut lines = text.lines().filter(|line| !line.starts_with("#!["));
        lines.next().is_some_and(|line| line.starts_with("//! "))
    };
    let without = tree.with_extension("rs").filter(|(_, text)| !has_doc(text));
    without
        .map(|(path, _)| Finding::at(path, 1, "begins without a module doc (`//!`)"))
        .collect()
}

fn empty_names(tree: &Tree) -> Vec<Finding> {
    let is_empty = |path: &str| {
        path.trim_end_matches(".rs")
            .split('/')
            .any(|part| EMPTY_NAMES.contains(&part))
    };
    let named = tree.with_extension("rs").filter(|(path, _)| is_empty(path));
    named
        .map(|(path, _)| Finding::in_file(path, "the name does not say what is in it"))
        .collect()
}

/// Every crate root but that of sys forbids unsafe code, so that no inner `allow` can bring it back.
fn roots_forbid_unsafe(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_extension("rs") {
        let forbids = line_of(text, |line| line == "#![forbid(unsafe_code)]") != 0;
        if is_crate_root(path) && !path.starts_with(UNSAFE_FOLDER) && !forbids {
            findings.push(Finding::at(
                path,
                1,
                "crate root without `#![forbid(unsafe_code)]`",
            ));
        }
    }
    findings
}

fn is_crate_root(path: &str) -> bool {
    ["/src/lib.rs", "/src/main.rs", "/bench/main.rs"]
        .iter()
        .any(|end| path.ends_with(end))
        || path.contains("/src/bin/")
}

#[test]
fn no_banned_words() {
    assert_clean(banned_words);
}

#[test]
fn no_long_files() {
    assert_clean(long_files);
}

#[test]
fn every_file_says_what_it_is() {
    assert_clean(module_docs);
}

#[test]
fn no_empty_names() {
    assert_clean(empty_names);
}

#[test]
fn every_crate_root_forbids_unsafe_code() {
    assert_clean(roots_forbid_unsafe);
}

#[test]
fn banned_words_are_found_in_code_only() {
    let source =
        "//! No unsafe here.\n#![forbid(unsafe_code)]\nlet s = \"todo!()\";\nunsafe { x() }\n";
    assert_findings(
        banned_words,
        &[
            ("cni/src/a.rs", source),
            ("sys/src/a.rs", source),
            ("shim/src/b.rs", "#[ignore = \"x\"]"),
        ],
        &[
            "cni/src/a.rs:4: `unsafe`: unsafe code lives in sys/ only; give sys a safe function for it",
            "shim/src/b.rs:1: `#[ignore`: a test that cannot run says so itself",
        ],
    );
    assert_findings(
        banned_words,
        &[
            ("sys/src/a.rs", "fn f() {\n    todo!()\n}"),
            ("sys/src/b.rs", "unimplemented!(\"x\")"),
        ],
        &[
            "sys/src/a.rs:2: `todo!`: unfinished code answers with an error",
            "sys/src/b.rs:1: `unimplemented!`: unfinished code answers with an error",
        ],
    );
}

#[test]
fn a_file_may_have_500_lines_and_not_one_more() {
    let (full, over) = ("x\n".repeat(MAX_LINES), "x\n".repeat(MAX_LINES + 1));
    assert_findings(
        long_files,
        &[("cni/src/full.rs", &full), ("cni/src/over.rs", &over)],
        &["cni/src/over.rs:501: 501 lines, at most 500: split it by subject"],
    );
}

#[test]
fn a_file_without_a_doc_or_with_an_empty_name_is_found() {
    let files = [
        ("cni/src/utils/a.rs", "use std::fs;\n"),
        ("cni/src/b.rs", "#![forbid(unsafe_code)]\n//! B.\n"),
    ];
    assert_findings(
        module_docs,
        &files,
        &["cni/src/utils/a.rs:1: begins without a module doc (`//!`)"],
    );
    assert_findings(
        empty_names,
        &files,
        &["cni/src/utils/a.rs: the name does not say what is in it"],
    );
}

#[test]
fn a_root_that_allows_unsafe_code_is_found() {
    assert_findings(
        roots_forbid_unsafe,
        &[
            ("cni/src/lib.rs", "//! CNI.\n"),
            ("cni/src/bin/plugins.rs", "//! Plugins.\n"),
            ("cni/src/load.rs", "//! Not a root.\n"),
            ("shim/src/main.rs", "//! Shim.\n#![forbid(unsafe_code)]\n"),
            ("sys/src/lib.rs", "//! Sys.\n"),
        ],
        &[
            "cni/src/bin/plugins.rs:1: crate root without `#![forbid(unsafe_code)]`",
            "cni/src/lib.rs:1: crate root without `#![forbid(unsafe_code)]`",
        ],
    );
}
