//! Processor time of one side, by a cgroup of its own: of its daemon with all that this starts, and of its containers.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

/// On cgroup v1; otherwise the unified hierarchy is the mount point itself.
const CPUACCT: &str = "/sys/fs/cgroup/cpuacct";
const UNIFIED: &str = "/sys/fs/cgroup";
/// Below a side's cgroup, beside those of its pods.
const DAEMON: &str = "daemon";

/// The cgroup of one side. Time stays counted in it when processes end, and cgroups below it.
#[derive(Clone, Debug)]
pub(crate) struct Processor(PathBuf);

impl Processor {
    /// `cgroup`: the parent of the side's pods, relative.
    pub(crate) fn new(cgroup: &str) -> Self {
        let hierarchy = match Path::new(CPUACCT).exists() {
            true => CPUACCT,
            false => UNIFIED,
        };
        Self(Path::new(hierarchy).join(cgroup))
    }

    /// Counts the process from now on, and what it starts.
    pub(crate) fn add_daemon(&self, pid: u32) -> Result<()> {
        let cgroup = self.0.join(DAEMON);
        fs::create_dir_all(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        fs::write(cgroup.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("put the daemon into {}", cgroup.display()))
    }

    /// Of all: daemon, shims, runtimes, and the programs in containers.
    pub(crate) fn all(&self) -> Result<Duration> {
        usage(&self.0)
    }

    /// Of the daemon, of shims and of runtimes as long as these are in no container's cgroup.
    pub(crate) fn runtime(&self) -> Result<Duration> {
        usage(&self.0.join(DAEMON))
    }
}

fn usage(cgroup: &Path) -> Result<Duration> {
    let v1 = cgroup.join("cpuacct.usage");
    if let Ok(text) = fs::read_to_string(&v1) {
        let nanoseconds = text.trim().parse();
        return Ok(Duration::from_nanos(
            nanoseconds.with_context(|| v1.display().to_string())?,
        ));
    }
    let v2 = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&v2).with_context(|| format!("read {}", v2.display()))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    let microseconds = line.context("no usage_usec")?.parse();
    Ok(Duration::from_micros(
        microseconds.with_context(|| v2.display().to_string())?,
    ))
}
