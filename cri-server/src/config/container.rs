//! The section `[container]`: what the operator says of every container.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Error, invalid, within};

/// Seconds.
const DAY: u64 = 24 * 60 * 60;
/// More than there are descriptors for.
const MOST: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Container {
    pub(crate) pids_limit: u32,
    /// Bytes.
    pub(crate) log_line_max: u32,
    /// Bytes per second; 0 is none.
    pub(crate) log_rate_limit: u32,
    /// Bytes.
    pub(crate) log_rate_burst: u32,
    pub(crate) nofile_soft: u64,
    pub(crate) nofile_hard: u64,
    pub(crate) declared_volumes: DeclaredVolumes,
    pub(crate) absent_mount_sources_to_reject: Vec<PathBuf>,
    /// Label containers where the host has SELinux.
    pub(crate) selinux: bool,
    /// Seconds.
    pub(super) exec_drain_timeout: u64,
    /// Commands and attached clients of one container.
    pub(crate) max_sessions: usize,
    /// Commands of ExecSync in all containers.
    pub(crate) max_exec_syncs: usize,
    pub(crate) max_concurrent_creations: usize,
}

impl Container {
    /// How long is waited for the end of a command's output once it has ended itself: another may hold it open.
    pub(crate) fn exec_drain_timeout(&self) -> Duration {
        Duration::from_secs(self.exec_drain_timeout)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let line = self.log_line_max;
        within("container.log_line_max", line, 256..=1 << 20, "bytes")?;
        if self.log_rate_burst < self.log_line_max {
            return Err(invalid(
                "container.log_rate_burst",
                self.log_rate_burst,
                "must not be less than log_line_max",
            ));
        }
        let drain = self.exec_drain_timeout;
        within("container.exec_drain_timeout", drain, 0..=DAY, "s")?;
        for (key, value) in [
            ("container.max_sessions", self.max_sessions),
            ("container.max_exec_syncs", self.max_exec_syncs),
            (
                "container.max_concurrent_creations",
                self.max_concurrent_creations,
            ),
        ] {
            within(key, value, 1..=MOST, "at once")?;
        }
        if self.nofile_soft > self.nofile_hard {
            return Err(invalid(
                "container.nofile_soft",
                self.nofile_soft,
                "must not exceed nofile_hard",
            ));
        }
        Ok(())
    }
}

/// What becomes of the volumes that an image declares.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeclaredVolumes {
    /// A directory each, with a copy of what the image has there.
    Copy,
    /// Nothing: they are directories of the container's root.
    Ignore,
}

impl Default for Container {
    fn default() -> Self {
        Self {
            pids_limit: 0,
            log_line_max: 16384,
            log_rate_limit: 0,
            log_rate_burst: 1 << 20,
            nofile_soft: 1024,
            nofile_hard: 524_288,
            declared_volumes: DeclaredVolumes::Copy,
            absent_mount_sources_to_reject: Vec::new(),
            selinux: true,
            exec_drain_timeout: 2,
            max_sessions: 500,
            max_exec_syncs: 2000,
            max_concurrent_creations: 500,
        }
    }
}
