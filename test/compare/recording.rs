//! Reports in a file: first what the host itself is like, then the row `root` in full, the others by what is different in
//! them, an exec's from its container's own.
//!
//! ```text
//! kernel      6.18
//! [host own]
//! dev./dev/kvm  c 10:232 600 0:0
//! [host new]
//! [root init]
//! status.Uid  0 0 0 0
//! [uid exec]
//! status.Uid  1000 1000 1000 1000
//! -status.X
//! ```

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use anyhow::{Context, Result};

use crate::host::Host;

/// Keys and values of one process.
pub(crate) type Report = BTreeMap<String, String>;
/// By row: the container's own program's, and an exec's.
pub(crate) type Reports = BTreeMap<String, [Report; 2]>;
/// What a report depends on besides the runtime.
pub(crate) type Facts = BTreeMap<String, String>;

/// The row with nothing set.
const BASE: &str = "root";
/// In the place of a row's name: the host, in the namespaces of the runtime's daemon, and in new ones.
const HOST: [&str; 2] = ["host own", "host new"];
pub(crate) const PROCESSES: [&str; 2] = ["init", "exec"];

/// What one runtime did on one machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recording {
    pub(crate) facts: Facts,
    pub(crate) host: Host,
    pub(crate) reports: Reports,
}

/// Those of this machine: it is of another kind where they differ.
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
    let facts = [
        ("kernel", version.join(".")),
        (
            "capabilities",
            capabilities.unwrap_or_default().trim().to_owned(),
        ),
        ("controllers", controllers.join(" ")),
        ("security", security_modules()),
        ("architecture", std::env::consts::ARCH.to_owned()),
    ];
    Ok(facts.map(|(name, value)| (name.to_owned(), value)).into())
}

/// Those that change what containers may do, by the files that they have where they are at work.
fn security_modules() -> String {
    let is_there = |path: &str| fs::read_to_string(path).is_ok();
    let found = [
        ("apparmor", "/sys/module/apparmor/parameters/enabled"),
        ("selinux", "/sys/fs/selinux/enforce"),
        ("smack", "/proc/self/attr/smack/current"),
    ];
    let names: Vec<_> = found
        .iter()
        .filter(|(_, path)| is_there(path))
        .map(|(name, _)| *name)
        .collect();
    names.join(" ")
}

pub(crate) fn write(recording: &Recording) -> String {
    let Recording {
        facts,
        host,
        reports,
    } = recording;
    let mut text = String::new();
    let mut line = |line: String| {
        // Into a string, which takes everything.
        let _ = writeln!(text, "{line}");
    };
    for (name, value) in facts {
        line(format!("{name}\t{value}"));
    }
    for (name, report) in HOST.iter().zip([&host.own, &host.new]) {
        line(format!("[{name}]"));
        changes(&Report::new(), report).for_each(&mut line);
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

pub(crate) fn read(path: &Path) -> Result<Recording> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("read {}", path.display()))
}

/// Where a line belongs.
enum Section {
    Facts,
    Own,
    New,
    Row(String, usize),
}

fn parse(text: &str) -> Result<Recording> {
    let mut recording = Recording {
        facts: Facts::new(),
        host: Host::default(),
        reports: Reports::new(),
    };
    let mut section = Section::Facts;
    for line in text.lines() {
        if let Some(head) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            section = begin(head, &mut recording.reports)?;
            continue;
        }
        let report = match &section {
            Section::Facts => &mut recording.facts,
            Section::Own => &mut recording.host.own,
            Section::New => &mut recording.host.new,
            Section::Row(row, process) => {
                &mut recording.reports.entry(row.clone()).or_default()[*process]
            }
        };
        let (key, value) = line.split_once('\t').unwrap_or((line, ""));
        match line.strip_prefix('-') {
            Some(absent) => drop(report.remove(absent)),
            None => drop(report.insert(key.to_owned(), value.to_owned())),
        }
    }
    Ok(recording)
}

/// The section of this head; a row begins as what it is written by its difference from.
fn begin(head: &str, reports: &mut Reports) -> Result<Section> {
    match HOST.iter().position(|name| *name == head) {
        Some(0) => return Ok(Section::Own),
        Some(_) => return Ok(Section::New),
        None => {}
    }
    let (row, process) = head.rsplit_once(' ').context("a head without a process")?;
    let process = usize::from(process == PROCESSES[1]);
    let from = if process == 0 { BASE } else { row };
    let from = reports.get(from).map(|[init, _]| init.clone());
    let pair: &mut [Report; 2] = reports.entry(row.to_owned()).or_default();
    pair[process] = from.unwrap_or_default();
    Ok(Section::Row(row.to_owned(), process))
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
        let mut reports = Reports::new();
        reports.insert(
            BASE.into(),
            [
                report(&[("x", "1"), ("y", "2")]),
                report(&[("x", "1"), ("z", "")]),
            ],
        );
        reports.insert("b c".into(), [report(&[]), report(&[("y", "3 [4]")])]);
        let recording = Recording {
            facts: facts().unwrap(),
            host: Host {
                own: report(&[("h", "5")]),
                new: report(&[("h", "6"), ("i", "")]),
            },
            reports,
        };
        assert_eq!(parse(&write(&recording)).unwrap(), recording);
    }
}
