//! Reports in a file: that of the row `root` in full, the others by what is different in them, an exec's from its
//! container's own.
//!
//! ```text
//! kernel      6.18
//! [root init]
//! status.Uid  0 0 0 0
//! [uid exec]
//! status.Uid  1000 1000 1000 1000
//! -status.X
//! ```

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit};

/// Keys and values of one process.
pub(crate) type Report = BTreeMap<String, String>;
/// By row: the container's own program's, and an exec's.
pub(crate) type Reports = BTreeMap<String, [Report; 2]>;
/// What a report depends on besides the runtime.
pub(crate) type Facts = BTreeMap<String, String>;

/// The row with nothing set.
const BASE: &str = "root";
pub(crate) const PROCESSES: [&str; 2] = ["init", "exec"];

/// Those of this machine.
pub(crate) fn facts() -> Result<Facts> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version: Vec<_> = release.split('.').take(2).collect();
    let status = fs::read_to_string("/proc/self/status")?;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let mut controllers: Vec<_> = fs::read_to_string("/proc/self/cgroup")?
        .lines()
        .filter_map(|line| Some(line.split(':').nth(1)?.to_owned()))
        .collect();
    controllers.sort();
    let (_, nofile) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let cores = std::thread::available_parallelism()?;
    let facts = [
        ("kernel", version.join(".")),
        (
            "capabilities",
            capabilities.unwrap_or_default().trim().to_owned(),
        ),
        ("controllers", controllers.join(" ")),
        ("nofile", nofile.to_string()),
        ("cores", cores.to_string()),
        ("architecture", std::env::consts::ARCH.to_owned()),
    ];
    Ok(facts.map(|(name, value)| (name.to_owned(), value)).into())
}

pub(crate) fn write(facts: &Facts, reports: &Reports) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        // Into a string, which takes everything.
        let _ = writeln!(text, "{line}");
    };
    for (name, value) in facts {
        line(format!("{name}\t{value}"));
    }
    let first = reports.get_key_value(BASE);
    let others = reports.iter().filter(|(row, _)| *row != BASE);
    let mut base = Report::new();
    for (row, [init, exec]) in first.into_iter().chain(others) {
        line(format!("[{row} init]"));
        changes(&base, init).for_each(&mut line);
        line(format!("[{row} exec]"));
        changes(init, exec).for_each(&mut line);
        if row == BASE {
            base = init.clone();
        }
    }
    text
}

fn changes(from: &Report, to: &Report) -> impl Iterator<Item = String> {
    let changed = to
        .iter()
        .filter(|(key, value)| from.get(*key) != Some(value));
    let absent = from.keys().filter(|key| !to.contains_key(*key));
    changed
        .map(|(key, value)| format!("{key}\t{value}"))
        .chain(absent.map(|key| format!("-{key}")))
}

pub(crate) fn read(path: &Path) -> Result<(Facts, Reports)> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("read {}", path.display()))
}

fn parse(text: &str) -> Result<(Facts, Reports)> {
    let (mut facts, mut reports) = (Facts::new(), Reports::new());
    let mut current: Option<(String, usize)> = None;
    for line in text.lines() {
        if let Some(head) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            let (row, process) = head.rsplit_once(' ').context("a head without a process")?;
            let process = usize::from(process == PROCESSES[1]);
            let from = if process == 0 { BASE } else { row };
            let from = reports.get(from).map(|[init, _]| init.clone());
            let pair: &mut [Report; 2] = reports.entry(row.to_owned()).or_default();
            pair[process] = from.unwrap_or_default();
            current = Some((row.to_owned(), process));
            continue;
        }
        let (key, value) = line.split_once('\t').unwrap_or((line, ""));
        let Some((row, process)) = &current else {
            facts.insert(key.to_owned(), value.to_owned());
            continue;
        };
        let report = &mut reports.entry(row.clone()).or_default()[*process];
        match line.strip_prefix('-') {
            Some(absent) => drop(report.remove(absent)),
            None => drop(report.insert(key.to_owned(), value.to_owned())),
        }
    }
    Ok((facts, reports))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let report = |pairs: &[(&str, &str)]| -> Report {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let (facts, mut reports) = (facts().unwrap(), Reports::new());
        reports.insert(
            BASE.into(),
            [
                report(&[("x", "1"), ("y", "2")]),
                report(&[("x", "1"), ("z", "")]),
            ],
        );
        reports.insert("b c".into(), [report(&[]), report(&[("y", "3 [4]")])]);
        let text = write(&facts, &reports);
        assert_eq!(parse(&text).unwrap(), (facts, reports));
    }
}
