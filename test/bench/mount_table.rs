//! Pod starts on a host with many mounts, as a node with hundreds of volumes has.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use corten_proto::cri::NamespaceMode;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    daemon::{Daemon, Runtime, Setup},
    latency::one_pod,
    samples::Samples,
};

/// Entries in the host's mount table while it is long.
const LONG: usize = 1200;
const TURN: usize = 10;
/// Pods whose caches are cold after the table has changed, not counted.
const WARM_UP: usize = 2;

/// Host-network pod starts with a short and with a long table.
#[derive(Clone, Debug)]
pub(crate) struct MountTable {
    pub(crate) runtime: Runtime,
    pub(crate) short: Samples,
    pub(crate) long: Samples,
    /// Entries in the short table.
    pub(crate) short_entries: usize,
}

/// Starts `n` pods with either table, in turns.
pub(crate) async fn pod_starts(setup: &Setup, runtime: Runtime, n: usize) -> Result<MountTable> {
    let mut daemon = setup.start(runtime).await?;
    let mut result = MountTable {
        runtime,
        short: Samples::default(),
        long: Samples::default(),
        short_entries: entries()?,
    };
    for _ in 0..n.div_ceil(TURN) {
        turn(&mut daemon, &mut result.short).await?;
        let crowd = Crowd::mount(&setup.state.join("mounts"))?;
        turn(&mut daemon, &mut result.long).await?;
        drop(crowd);
    }
    daemon.stop().await?;
    Ok(result)
}

async fn turn(daemon: &mut Daemon, samples: &mut Samples) -> Result<()> {
    for i in 0..WARM_UP + TURN {
        let times = one_pod(daemon, NamespaceMode::Node, &format!("mounts-{i}")).await?;
        if i >= WARM_UP {
            samples.push(times.total());
        }
    }
    Ok(())
}

fn entries() -> Result<usize> {
    Ok(fs::read_to_string("/proc/self/mountinfo")
        .context("read the mount table")?
        .lines()
        .count())
}

/// Fills the mount table up; dropping it takes all of its mounts away again.
struct Crowd(PathBuf);

impl Crowd {
    fn mount(dir: &Path) -> Result<Self> {
        let none: Option<&str> = None;
        fs::create_dir_all(dir).context("create the folder of mounts")?;
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), none)
            .context("mount a tmpfs")?;
        let crowd = Crowd(dir.to_owned());
        for i in entries()?..LONG {
            let volume = dir.join(i.to_string());
            fs::create_dir(&volume).context("create a volume")?;
            mount(Some(&volume), &volume, none, MsFlags::MS_BIND, none)
                .context("mount a volume")?;
        }
        let entries = entries()?;
        ensure!(
            entries >= LONG,
            "{entries} entries in the mount table, want {LONG}"
        );
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            crate::report::note(&format!("unmount {}: {error}", self.0.display()));
        }
    }
}
