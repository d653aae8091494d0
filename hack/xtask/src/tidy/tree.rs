//! The files that the rules look at, in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// What the rules read; everything else in the repository is left alone.
const KINDS: [&str; 4] = ["rs", "toml", "md", "proto"];
/// Folders that hold no source of ours, from the repository's root.
const SKIPPED: [&str; 5] = [
    "target",
    ".git",
    "hack/cache",
    "fuzz/target",
    "hack/inflate/target",
];

/// Text files by their path from the repository's root.
pub(super) struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    pub(super) fn of_the_repository() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut tree = Tree {
            files: BTreeMap::new(),
        };
        tree.read_folder(&root, "");
        tree
    }

    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let own = |&(path, text): &(&str, &str)| (path.to_owned(), text.to_owned());
        Tree {
            files: files.iter().map(own).collect(),
        }
    }

    pub(super) fn file(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    pub(super) fn with_extension(&self, extension: &str) -> impl Iterator<Item = (&str, &str)> {
        let has = move |path: &&String| extension_of(path) == extension;
        let paths = self.files.keys().filter(has);
        paths.map(|path| (path.as_str(), self.files[path].as_str()))
    }

    fn read_folder(&mut self, root: &Path, folder: &str) {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            };
            if SKIPPED.contains(&path.as_str()) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                self.read_folder(root, &path);
            } else if KINDS.contains(&extension_of(&path)) {
                // A file may go away while we look: editors write aside and rename.
                if let Ok(text) = fs::read_to_string(root.join(&path)) {
                    self.files.insert(path, text);
                }
            }
        }
    }
}

fn extension_of(path: &str) -> &str {
    Path::new(path)
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default()
}

/// One breach of one rule. `line` counts from 1; 0 stands for the whole file.
pub(super) struct Finding {
    pub(super) path: String,
    pub(super) line: usize,
    pub(super) message: String,
}

impl Finding {
    pub(super) fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Finding {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }

    pub(super) fn in_file(path: &str, message: impl Into<String>) -> Self {
        Self::at(path, 0, message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// The line, from 1, of the first line that `is_it`; 0 when there is none.
pub(super) fn line_of(text: &str, is_it: impl Fn(&str) -> bool) -> usize {
    text.lines().position(is_it).map_or(0, |index| index + 1)
}
