//! What a directory holds, for comparing: by entry its type, mode, owner, size, time, attributes and content.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use anyhow::{Context, Result};
use rustix::fs::{lgetxattr, llistxattr};
use sha2::{Digest, Sha256};

/// A line for each path below the root, and for the root as `.`. Paths that are one file say which was first.
pub type Manifest = BTreeMap<String, String>;

/// Reads the tree below `root` without following links. Attributes whose name begins with one of `ignored` are left out.
///
/// # Errors
/// If anything cannot be read.
pub fn manifest(root: &Path, ignored: &[&str]) -> Result<Manifest> {
    let mut found = Manifest::new();
    let mut files = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path)?;
        let name = path.strip_prefix(root)?.as_os_str().as_bytes();
        let name = match name.escape_ascii().to_string() {
            empty if empty.is_empty() => ".".to_owned(),
            name => name,
        };
        let line =
            describe(&path, &meta, ignored).with_context(|| format!("read {}", path.display()))?;
        if meta.nlink() > 1 && !meta.is_dir() {
            let names: &mut Vec<String> = files.entry(meta.ino()).or_default();
            names.push(name.clone());
        }
        found.insert(name, line);
        if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        }
    }
    for mut names in files.into_values() {
        names.sort();
        for name in &names {
            if let Some(line) = found.get_mut(name) {
                line.push_str(&format!(" same as {}", names[0]));
            }
        }
    }
    Ok(found)
}

/// What is different, for people, at most `limit` lines. Empty if nothing is.
pub fn differences(got: &Manifest, want: &Manifest, limit: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, line) in want {
        match got.get(path) {
            None => lines.push(format!("{path}: missing, it should be {line}")),
            Some(other) if other != line => {
                lines.push(format!("{path}: {other}, it should be {line}"))
            }
            Some(_) => {}
        }
    }
    let more = got.iter().filter(|(path, _)| !want.contains_key(*path));
    lines.extend(more.map(|(path, line)| format!("{path}: too much, {line}")));
    lines.truncate(limit);
    lines
}

fn describe(path: &Path, meta: &Metadata, ignored: &[&str]) -> Result<String> {
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_symlink() {
        format!("link to {}", fs::read_link(path)?.display())
    } else if kind.is_file() {
        format!("file of {} bytes, {}", meta.size(), digest(path)?)
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        let letter = if kind.is_block_device() { 'b' } else { 'c' };
        format!("device {letter} {:#x}", meta.rdev())
    };
    let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
    let (seconds, attributes) = (meta.mtime(), attributes(path, ignored)?);
    Ok(format!(
        "{what} {mode:04o} {uid}:{gid} at {seconds}{attributes}"
    ))
}

fn digest(path: &Path) -> Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn attributes(path: &Path, ignored: &[&str]) -> Result<String> {
    let mut names = vec![0; 64 << 10];
    let length = llistxattr(path, &mut names[..])?;
    let mut names: Vec<&[u8]> = names[..length].split(|byte| *byte == 0).collect();
    names.retain(|name| {
        !name.is_empty()
            && !ignored
                .iter()
                .any(|prefix| name.starts_with(prefix.as_bytes()))
    });
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(path, name, &mut value[..])?;
        let (name, value) = (name.escape_ascii(), value[..length].escape_ascii());
        text.push_str(&format!(" {name}={value}"));
    }
    Ok(text)
}
