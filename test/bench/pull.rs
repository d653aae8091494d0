//! What a large image's pull from loopback costs each side: time, processor, memory.
//!
//! Each side's root is an ext4 of its own with a journal, freshly made: an ext4 without one passes over inodes that were
//! deleted a moment ago, so that each round would be slower than the one before.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, umount2};

use crate::{
    daemon::{Daemon, Runtime, Setup},
    report,
    samples::Samples,
};

/// Nothing else listens in the bench's network namespace.
const REGISTRY: &str = "127.0.0.1:5000";
const IMAGE: &str = "127.0.0.1:5000/bench/large:1";
const DISK: u64 = 8 << 30;
/// Until what an image took is free again.
const REMOVAL: Duration = Duration::from_secs(60);
/// What may stay of a pull: metadata of the file system, and databases.
const SLACK: u64 = 32 << 20;
const POLL: Duration = Duration::from_millis(50);

/// One side's figures.
#[derive(Debug)]
pub(crate) struct Pulls {
    pub(crate) runtime: Runtime,
    pub(crate) wall: Samples,
    /// Of the daemon and its children.
    pub(crate) processor: Samples,
    /// Bytes: the most that the daemon ever had, and its largest child.
    pub(crate) peak: u64,
}

/// Pulls in turns, `rounds` each. `storage` is the registry's.
pub(crate) async fn in_turns(
    setup: &Setup,
    runtimes: &[Runtime],
    storage: &Path,
    rounds: usize,
) -> Result<Vec<Pulls>> {
    let _registry = serve(setup, storage).await?;
    let mut sides = Vec::new();
    for runtime in runtimes {
        let disk = mount_disk(setup, *runtime)?;
        write_hosts(&disk.0)?;
        let daemon = setup.start(*runtime).await?;
        let pulls = Pulls {
            runtime: *runtime,
            wall: Samples::default(),
            processor: Samples::default(),
            peak: 0,
        };
        sides.push((daemon, disk, pulls));
    }
    for round in 0..rounds {
        report::progress(round, rounds);
        for (daemon, disk, pulls) in &mut sides {
            one(daemon, &disk.0, pulls).await?;
        }
    }
    let mut all = Vec::new();
    for (daemon, disk, mut pulls) in sides {
        pulls.peak = peak(daemon.pid())?;
        daemon.stop().await?;
        drop(disk);
        all.push(pulls);
    }
    Ok(all)
}

async fn one(daemon: &mut Daemon, disk: &Path, pulls: &mut Pulls) -> Result<()> {
    sync(disk)?;
    let free_before = free(disk)?;
    let processor_before = processor(daemon.pid())?;
    let began = Instant::now();
    daemon.client.pull_image(IMAGE).await?;
    pulls.wall.push(began.elapsed());
    let used = processor(daemon.pid())?.saturating_sub(processor_before);
    pulls.processor.push(used);

    daemon.client.remove_image(IMAGE).await?;
    let deadline = Instant::now() + REMOVAL;
    while free(disk)? + SLACK < free_before {
        let name = daemon.runtime.name();
        ensure!(
            Instant::now() < deadline,
            "{name}: the image is removed, and its disk is not free"
        );
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Ends with this.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only on a process that has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn serve(setup: &Setup, storage: &Path) -> Result<Registry> {
    let config = serde_json::json!({
        "version": "0.1",
        "log": { "level": "error" },
        "storage": {
            "filesystem": { "rootdirectory": storage },
            "maintenance": { "readonly": { "enabled": true } },
        },
        "http": { "addr": REGISTRY },
    });
    fs::create_dir_all(&setup.root).context("create the bench's folder")?;
    let file = setup.root.join("registry.yml");
    fs::write(&file, config.to_string()).context("write the registry's configuration")?;
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start docker-registry")?;
    let registry = Registry(child);
    let deadline = Instant::now() + REMOVAL;
    while tokio::net::TcpStream::connect(REGISTRY).await.is_err() {
        ensure!(Instant::now() < deadline, "docker-registry does not answer");
        tokio::time::sleep(POLL).await;
    }
    Ok(registry)
}

/// Where one side's disk is mounted, for as long as this lives.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // It ends with the bench's mounts at the latest.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// At the folder that [`Setup::start`] uses for this side.
fn mount_disk(setup: &Setup, runtime: Runtime) -> Result<Disk> {
    let folder = setup.root.join(runtime.name());
    let file = setup.root.join(format!("{}.disk", runtime.name()));
    fs::create_dir_all(&folder).context("create a side's folder")?;
    fs::File::create(&file)
        .and_then(|disk| disk.set_len(DISK))
        .context("make a disk")?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-m", "0", "-E", "nodiscard,lazy_itable_init=0"])
        .arg(&file))?;
    run(Command::new("mount")
        .args(["-o", "loop"])
        .arg(&file)
        .arg(&folder))?;
    Ok(Disk(folder))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {told}");
    Ok(())
}

/// Both sides read the same format.
fn write_hosts(folder: &Path) -> Result<()> {
    let folder = folder.join("certs.d").join(REGISTRY);
    fs::create_dir_all(&folder).context("create certs.d")?;
    let hosts = format!("server = 'http://{REGISTRY}'\n[host.'http://{REGISTRY}']\n");
    fs::write(folder.join("hosts.toml"), hosts).context("write hosts.toml")
}

fn sync(disk: &Path) -> Result<()> {
    let root = fs::File::open(disk).context("open the disk")?;
    rustix::fs::syncfs(&root).context("syncfs")
}

/// Bytes.
fn free(disk: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(disk).context("statvfs")?;
    Ok(found.f_bfree * found.f_frsize)
}

/// Of the process and of those of its children that have ended.
fn processor(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read stat")?;
    // The name, which comes before, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    // utime, stime, cutime and cstime are fields 14 to 17; the first one here is number 3.
    let ticks = fields.split_whitespace().skip(11).take(4);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux shows user space 100 ticks a second, whatever its own clock does.
    Ok(Duration::from_millis(ticks * 10))
}

/// Bytes.
fn peak(pid: u32) -> Result<u64> {
    let own = high_water(&fs::read_to_string(format!("/proc/{pid}/status"))?)?;
    let task = format!("/proc/{pid}/task");
    let mut largest = 0;
    for thread in fs::read_dir(task).context("list threads")? {
        let children = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            // It may have ended a moment ago.
            let status = fs::read_to_string(format!("/proc/{child}/status"));
            largest = largest.max(status.map_or(Ok(0), |status| high_water(&status))?);
        }
    }
    Ok(own + largest)
}

fn high_water(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmHWM")?.parse::<u64>()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_from_proc() {
        assert_eq!(
            high_water("Name:\tx\nVmHWM:\t    1024 kB\n").unwrap(),
            1 << 20
        );
        let own = std::process::id();
        assert!(peak(own).unwrap() > 1 << 20);
        let before = processor(own).unwrap();
        let began = Instant::now();
        while processor(own).unwrap() <= before {
            assert!(began.elapsed() < Duration::from_secs(60));
        }
    }
}
