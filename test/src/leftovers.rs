//! Counts what a daemon has made, to compare before and after.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::Result;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{node::Node, wait::until};

/// Everything that a failed or removed pod must not leave. Each list holds names, so that a difference explains itself.
#[derive(Debug, PartialEq)]
pub struct Leftovers {
    pub mounts: Vec<String>,
    pub namespaces: Vec<String>,
    pub cgroups: Vec<String>,
    pub processes: Vec<String>,
    pub files: Vec<String>,
    pub addresses: Vec<String>,
    pub links: Vec<String>,
    /// Elements of nf_tables' sets and maps with the address of a pod.
    pub firewall: Vec<String>,
}

impl Leftovers {
    pub fn count(node: &Node) -> Result<Self> {
        let lines = |script: &str| -> Result<Vec<String>> {
            let mut lines: Vec<String> = node.shell(script)?.lines().map(str::to_owned).collect();
            lines.sort();
            Ok(lines)
        };
        let mut cgroups = Vec::new();
        for hierarchy in hierarchies() {
            walk(
                &hierarchy.join("corten").join(node.instance()?),
                3,
                &mut cgroups,
            );
        }
        // The parent that all pods of this node share is made once.
        cgroups.retain(|path| {
            path.split('/')
                .next_back()
                .is_some_and(|name| name.len() == 64)
        });
        let mut files = Vec::new();
        for dir in [
            "pods",
            "containers",
            "operations",
            "layers",
            "content",
            "staging",
            "trash",
            "cni",
        ] {
            walk(&node.root().join(dir), 1, &mut files);
        }
        let state = node.state().display().to_string();
        for line in lines(&format!("ls -1 {state}/pods {state}/containers"))? {
            files.push(line);
        }
        let mut addresses = Vec::new();
        walk(&node.dir().join("addresses"), 2, &mut addresses);
        // Chosen once in an instance's life.
        files.retain(|path| !path.ends_with("cni/dev-network"));
        addresses.retain(|path| {
            let name = path.rsplit('/').next().unwrap_or_default();
            name.parse::<std::net::IpAddr>().is_ok()
        });
        Ok(Self {
            mounts: lines("awk '{ print $5 }' /proc/self/mountinfo")?,
            namespaces: lines("ls -1 /run/netns")?,
            processes: lines(
                "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null; echo; done | grep -E '^corten-(shim|pod)' || true",
            )?,
            links: lines("ip -o link show type veth | awk '{ print $2 }'")?,
            firewall: lines(
                "nft list ruleset | tr ',{}' '\\n' | grep -E '([0-9]+\\.){3}[0-9]+' | grep -v / || true",
            )?,
            cgroups,
            files,
            addresses,
        })
    }

    /// Waits until nothing is there but what was there `before`.
    pub async fn settle(node: &Node, before: &Self) -> Result<()> {
        until(|| async {
            let now = Self::count(node)?;
            anyhow::ensure!(
                now == *before,
                "left behind:\nbefore {before:#?}\nnow {now:#?}"
            );
            Ok(())
        })
        .await
    }
}

fn walk(dir: &Path, depth: u32, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    for path in paths {
        found.push(path.display().to_string());
        if depth > 1 && path.is_dir() && !path.is_symlink() {
            walk(&path, depth - 1, found);
        }
    }
}

/// The mount points of the cgroup hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/sys/fs/cgroup")];
    let Ok(entries) = fs::read_dir("/sys/fs/cgroup") else {
        return found;
    };
    found.extend(
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_dir() && !path.is_symlink()),
    );
    found
}

/// Removes a node's cgroups with what still runs in them.
pub fn remove_cgroups(name: &str) {
    for hierarchy in hierarchies() {
        let mut found = Vec::new();
        let top = hierarchy.join(name);
        walk_dirs(&top, &mut found);
        found.push(top);
        for path in found {
            kill_all(&path);
            // Processes that were just killed leave a moment later.
            for _ in 0..100 {
                match fs::remove_dir(&path) {
                    Err(error) if error.raw_os_error() == Some(16) => {
                        sleep(Duration::from_millis(10))
                    }
                    _ => break,
                }
            }
        }
    }
}

fn kill_all(cgroup: &Path) {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The directories below `dir`, children first.
fn walk_dirs(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for path in entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
    {
        walk_dirs(&path, found);
        found.push(path);
    }
}
