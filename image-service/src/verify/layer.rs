//! One layer against its archive, which is made again from the layer itself: the digest must be the
//! diff id, every entry must look as its header says, and nothing may be there that no entry made. The holes of sparse
//! files are not read.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use super::entry::{Look, Places};
use super::walk;
use crate::digest::Digest;
use crate::tap::Tap;
use crate::tar_split::{Event, Rebuilt};
use crate::unpack::{Archive, Fault};

/// Differences that are kept. A layer with more is as broken as one with as many.
const MAX_DIFFERENCES: usize = 1000;

/// A place that is not as it was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Relative to the layer's root; empty for the whole layer.
    pub(crate) path: Vec<u8>,
    pub(crate) what: String,
}

/// Blocks. Empty if the layer is as it was pulled.
///
/// # Errors
/// If the layer's tar-split file cannot be read.
pub(super) fn check(
    layer: &OwnedFd,
    tar_split: File,
    diff_id: &Digest,
) -> io::Result<Vec<Difference>> {
    let mut check = Check::default();
    let mut events = Vec::new();
    let rebuilt = Rebuilt::new(tar_split, layer.as_fd(), |event| events.push(event))?;
    let mut archive = Archive::new(Tap::new(rebuilt, diff_id.algorithm()));
    let mut places = Places::new(layer);
    loop {
        let member = match archive.next() {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err(Fault::Stream(error)) => return Err(error),
            Err(fault) => {
                check.differs(
                    Vec::new(),
                    format!("its archive is broken: {}", fault.reason()),
                );
                break;
            }
        };
        match places.compare(&member, archive.left()) {
            Look::Ignored | Look::Mark { differs: None, .. } => {}
            Look::Mark {
                path,
                differs: Some(what),
            } => check.differs(path, what),
            Look::Entry { path, differs } => check.saw(path, differs),
        }
    }
    let mut tap = archive.into_source();
    io::copy(&mut tap, &mut io::sink())?;
    let (got, _) = tap.finish();
    for event in events {
        match event {
            Event::Superseded(path) => check.superseded(&path),
            Event::Changed { path, what } => {
                check.differs(places.canonical(&path), what.to_owned())
            }
        }
    }
    if places.are_all_known() {
        find_strays(layer, &places, &mut check)?;
    }
    if check.is_exact() && check.differences.is_empty() && got != *diff_id {
        let what = format!("its archive has digest {got}, it was pulled with {diff_id}");
        check.differs(Vec::new(), what);
    }
    Ok(check.finish())
}

fn find_strays(layer: &OwnedFd, places: &Places<'_>, check: &mut Check) -> io::Result<()> {
    walk::each(layer, |path, is_directory| {
        let is_known = check.knows(path) || (is_directory && places.is_parent(path));
        if !is_known {
            check.differs(path.to_vec(), "it is in no entry of the archive".to_owned());
        }
        check.differences.len() < MAX_DIFFERENCES
    })
}

/// What is known so far. Later entries win, so that a difference counts only where no later one came.
#[derive(Default)]
struct Check {
    /// By the hash of a path: how many entries there were so far. 2^-64 to take one for another.
    seen: HashMap<u64, u64>,
    superseded: HashSet<u64>,
    state: RandomState,
    /// With the number of the entry they were found at; `u64::MAX` counts always.
    differences: Vec<(u64, Difference)>,
    count: u64,
}

impl Check {
    fn key(&self, path: &[u8]) -> u64 {
        self.state.hash_one(path)
    }

    fn saw(&mut self, path: Vec<u8>, differs: Option<String>) {
        self.count += 1;
        self.seen.insert(self.key(&path), self.count);
        if let Some(what) = differs
            && self.differences.len() < MAX_DIFFERENCES
        {
            self.differences
                .push((self.count, Difference { path, what }));
        }
    }

    fn knows(&self, path: &[u8]) -> bool {
        self.seen.contains_key(&self.key(path))
    }

    fn superseded(&mut self, path: &[u8]) {
        self.superseded.insert(self.key(path));
    }

    /// Whether the archive can be made again.
    fn is_exact(&self) -> bool {
        self.superseded.is_empty()
    }

    fn differs(&mut self, path: Vec<u8>, what: String) {
        if self.differences.len() < MAX_DIFFERENCES {
            self.differences.push((u64::MAX, Difference { path, what }));
        }
    }

    fn finish(self) -> Vec<Difference> {
        let is_last = |number: u64, path: &[u8]| {
            number == u64::MAX || self.seen.get(&self.key(path)) == Some(&number)
        };
        let is_open = |path: &[u8]| {
            let ends = (0..path.len()).filter(|at| path[*at] == b'/');
            let mut prefixes = ends.chain([path.len()]).map(|end| &path[..end]);
            prefixes.any(|prefix| self.superseded.contains(&self.key(prefix)))
        };
        let differences = self.differences.iter();
        differences
            .filter(|(number, found)| {
                is_last(*number, &found.path) && (self.is_exact() || !is_open(&found.path))
            })
            .map(|(_, found)| found.clone())
            .collect()
    }
}
