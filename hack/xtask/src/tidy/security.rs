//! SECURITY.md's promises against the tests that hold them.
//!
//! A promise is an entry that begins with `- **`. It names a test at least: `place::function` in backticks,
//! where the place is a file or a test program (`sys/src/mount.rs`, `sys/tests/root`; without a slash a program
//! of `test/tests`). `::function` is in the place that the same entry has named before it.

use std::collections::BTreeSet;

use super::tree::{Finding, Tree};
use super::{assert_clean, assert_findings};

const SECURITY: &str = "SECURITY.md";
const PROMISE: &str = "- **";
/// Folder of the test programs that are named without a folder.
const BLACK_BOX: &str = "test/tests/";
/// Beginning of a list of functions that a test program runs without the attribute.
const SCENARIOS: &str = "scenarios![";

/// Name of a test in SECURITY.md.
struct Named<'a> {
    /// Line at which its entry begins.
    entry: usize,
    line: usize,
    place: &'a str,
    function: &'a str,
}

impl Named<'_> {
    fn is(&self, path: &str, function: &str) -> bool {
        let path = if self.place.contains('/') {
            Some(path)
        } else {
            path.strip_prefix(BLACK_BOX)
        };
        let rest = path.and_then(|path| path.strip_prefix(self.place));
        let in_place = rest.is_some_and(|rest| matches!(rest, "" | ".rs") || rest.starts_with('/'));
        in_place && self.function == function
    }
}

/// Names that no test of the tree has.
fn unknown_tests(tree: &Tree) -> Vec<Finding> {
    let tests = tests(tree);
    let mut findings = Vec::new();
    for named in named_tests(text(tree)) {
        let is_it = |&(path, function): &(&str, &str)| named.is(path, function);
        if !tests.iter().any(is_it) {
            let message = format!("no test `{}::{}`", named.place, named.function);
            findings.push(Finding::at(SECURITY, named.line, message));
        }
    }
    findings
}

/// Promises that name no test.
fn bare_promises(tree: &Tree) -> Vec<Finding> {
    let text = text(tree);
    let held: BTreeSet<usize> = named_tests(text).iter().map(|named| named.entry).collect();
    let lines = (1..).zip(text.lines());
    lines
        .filter(|(line, text)| text.starts_with(PROMISE) && !held.contains(line))
        .map(|(line, _)| Finding::at(SECURITY, line, "a promise that names no test"))
        .collect()
}

fn text(tree: &Tree) -> &str {
    tree.file(SECURITY).unwrap_or_default()
}

fn named_tests(text: &str) -> Vec<Named<'_>> {
    let (mut entry, mut place) = (0, "");
    let mut all = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.starts_with("- ") || text.starts_with('#') {
            (entry, place) = (line, "");
        }
        let in_backticks = text.split('`').skip(1).step_by(2);
        for (own_place, function) in in_backticks.filter_map(|name| name.rsplit_once("::")) {
            if !own_place.is_empty() {
                place = own_place;
            }
            all.push(Named {
                entry,
                line,
                place,
                function,
            });
        }
    }
    all
}

/// Every test of the tree: path and function.
fn tests(tree: &Tree) -> Vec<(&str, &str)> {
    let files = tree.with_extension("rs");
    let tests = files.map(|(path, text)| (path, functions(text)));
    tests
        .flat_map(|(path, functions)| functions.into_iter().map(move |function| (path, function)))
        .collect()
}

/// Functions of a file that run as tests.
fn functions(text: &str) -> Vec<&str> {
    let (mut has_attribute, mut in_list) = (false, false);
    let mut functions = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            has_attribute = true;
        } else if has_attribute && let Some((_, name)) = line.split_once("fn ") {
            functions.extend(name.split('(').next());
            has_attribute = false;
        } else if line.ends_with(SCENARIOS) {
            in_list = true;
        } else if line == "];" {
            in_list = false;
        } else if in_list {
            functions.push(line.trim_end_matches(','));
        }
    }
    functions
}

#[test]
fn every_test_that_security_names_exists() {
    assert_clean(unknown_tests);
}

#[test]
fn every_promise_names_a_test() {
    assert_clean(bare_promises);
}

#[test]
fn security_names_tests_and_the_tree_has_them() {
    let tree = Tree::of_the_repository();
    assert!(named_tests(text(&tree)).len() > 100);
    assert!(tests(&tree).len() > 1000);
}

#[test]
fn tests_are_found_by_their_place() {
    let security = "# Title\n\n- **Links.** Held. `attacks::a`, `::b`.\n- **Mounts.** Held: `one_pod::c`,\n  \
                    `sys/src/mount.rs::d`, `sys/tests/root::e`, `shim/tests/container::f`. Not `CAP_KILL`.\n\
                    - No promise.\n";
    let files = [
        (SECURITY, security),
        (
            "test/tests/attacks.rs",
            "#[test]\nfn a() {}\n\n#[tokio::test(flavor = \"multi_thread\")]\nasync fn b() {}\n",
        ),
        (
            "test/tests/one_pod/files.rs",
            "#[tokio::test]\nasync fn c() {}\n",
        ),
        (
            "sys/src/mount.rs",
            "mod tests {\n    #[test]\n    fn d() {}\n}\n",
        ),
        ("sys/tests/root.rs", "#[test]\nfn e() {}\n"),
        (
            "shim/tests/container/scenario/mounts.rs",
            "const ALL: &[Scenario] = scenarios![\n    f,\n];\n\nfn f() {}\n",
        ),
    ];
    assert_findings(unknown_tests, &files, &[]);
    assert_findings(bare_promises, &files, &[]);
}

#[test]
fn what_is_no_test_is_found() {
    let security = "- **Gone.** `attacks::gone`.\n- **Helper.** `attacks::helper`, `::test`.\n\
                    - **Elsewhere.** `attack::test`,\n  `root::other`.\n- **No place.** `::test`.\n";
    let files = [
        (SECURITY, security),
        (
            "test/tests/attacks.rs",
            "#[test]\nfn test() {}\n\nfn helper() {}\n",
        ),
        ("sys/tests/root.rs", "#[test]\nfn other() {}\n"),
    ];
    assert_findings(
        unknown_tests,
        &files,
        &[
            "SECURITY.md:1: no test `attacks::gone`",
            "SECURITY.md:2: no test `attacks::helper`",
            "SECURITY.md:3: no test `attack::test`",
            "SECURITY.md:4: no test `root::other`",
            "SECURITY.md:5: no test `::test`",
        ],
    );
}

#[test]
fn a_promise_without_a_test_is_found() {
    let security = "- **First.** It holds.\n- Its test is another entry's: `attacks::a`.\n\n## Title\n\n`attacks::a`\n\n\
                    - **Last.** `CAP_KILL` is dropped.\n";
    assert_findings(
        bare_promises,
        &[(SECURITY, security)],
        &[
            "SECURITY.md:1: a promise that names no test",
            "SECURITY.md:8: a promise that names no test",
        ],
    );
}
