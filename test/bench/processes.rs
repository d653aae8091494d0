//! What the processes of a runtime hold: memory, descriptors, threads; and who has ended and waits to be reaped.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;

/// Sums over some processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    pub(crate) processes: u64,
    /// Bytes that belong to no file (RssAnon).
    pub(crate) anonymous: u64,
    /// Bytes: proportional set size.
    pub(crate) proportional: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

/// All processes of one runtime, with nothing else in the process namespace but the bench and containers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) daemon: Held,
    /// And all else that is in no container.
    pub(crate) shims: Held,
    /// Processes in containers.
    pub(crate) contained: u64,
    /// Wherever they are.
    pub(crate) zombies: u64,
}

impl Snapshot {
    pub(crate) fn take(daemon: &Daemon) -> Result<Self> {
        let mut snapshot = Self::default();
        for pid in process_ids()? {
            // It may have ended a moment ago.
            let Ok(status) = fs::read_to_string(process(pid).join("status")) else {
                continue;
            };
            if field(&status, "State:").is_some_and(|state| state.starts_with('Z')) {
                snapshot.zombies += 1;
            } else if pid == daemon.pid() {
                snapshot.daemon.add(pid, &status)?;
            } else if depth(&status) > 1 {
                snapshot.contained += 1;
            } else if !is_of_bench(&status) {
                snapshot.shims.add(pid, &status)?;
            }
        }
        ensure!(
            snapshot.daemon.processes == 1,
            "the daemon is not among the processes"
        );
        Ok(snapshot)
    }
}

impl Held {
    fn add(&mut self, pid: u32, status: &str) -> Result<()> {
        let process = process(pid);
        let number = |name| field(status, name).and_then(first_number);
        let rollup = fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
        let proportional = field(&rollup, "Pss:").and_then(first_number);
        let descriptors = fs::read_dir(process.join("fd")).map_or(0, Iterator::count);
        self.processes += 1;
        self.anonymous += number("RssAnon:").context("no RssAnon")? << 10;
        self.proportional += proportional.unwrap_or_default() << 10;
        self.descriptors += u64::try_from(descriptors)?;
        self.threads += number("Threads:").context("no Threads")?;
        Ok(())
    }
}

/// The bench, its init, and clients that it has started.
fn is_of_bench(status: &str) -> bool {
    let name = field(status, "Name:").unwrap_or_default();
    name.starts_with("corten-bench") || name.starts_with("corten-streams")
}

fn process_ids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("read /proc")?.flatten();
    Ok(entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

fn process(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.map(str::trim)
}

fn first_number(value: &str) -> Option<u64> {
    value.split_whitespace().next()?.parse().ok()
}

/// In how many process namespaces, from ours down, the process has an id. A shim is where the daemon is.
fn depth(status: &str) -> usize {
    field(status, "NSpid:").map_or(0, |ids| ids.split_whitespace().count())
}
