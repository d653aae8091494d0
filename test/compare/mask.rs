//! Takes out of a report what differs from container to container, or from machine to machine, by nature.

use std::{fs, path::Path};

use anyhow::Result;
use rustix::system::uname;

use crate::recording::Report;

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
/// Length of a container's id.
const ID: usize = 64;

/// What a value becomes that is the host's own, alike under every runtime.
pub(crate) const HOSTS: &str = "the host's";

#[derive(Debug)]
pub(crate) struct Mask {
    /// The node's directory, as paths, as the mount table spells it, and within its file system.
    node: Vec<String>,
    cgroup: String,
    hostname: String,
    /// The node's own, as /proc/self/ns shows them.
    namespaces: Vec<String>,
}

impl Mask {
    pub(crate) fn new(node: &Path, cgroup_parent: &str) -> Result<Self> {
        let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}"));
        let namespaces = NAMESPACES.map(link).into_iter();
        let namespaces = namespaces.map(|link| Ok(link?.display().to_string()));
        let path = node.display().to_string();
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let mut names = vec![escaped(&path)];
        names.extend(within_its_file_system(&path, &table));
        names.push(path);
        // The longest first: one may be the end of another.
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        names.dedup();
        Ok(Self {
            node: names,
            cgroup: cgroup_parent.to_owned(),
            hostname: uname().nodename().to_string_lossy().into_owned(),
            namespaces: namespaces.collect::<Result<_>>()?,
        })
    }

    /// `text` is what the probe has written.
    pub(crate) fn apply(&self, text: &str) -> Report {
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        let mut report: Report = lines
            .filter(|(key, _)| *key != "end")
            .map(|(key, value)| (key.to_owned(), self.value(key, value)))
            .collect();
        mask_file_systems(&mut report);
        report
    }

    fn value(&self, key: &str, value: &str) -> String {
        let mut value = value.replace(&self.cgroup, "<cgroup>");
        for name in &self.node {
            value = value.replace(name, "<node>");
        }
        let value = ids(&value);
        if key.starts_with("namespace.") {
            let of_the_node = self.namespaces.contains(&value);
            return if of_the_node { HOSTS } else { "its own" }.to_owned();
        }
        if key.starts_with("mount.") && key.ends_with(" root") {
            return place(&value);
        }
        if key.starts_with("mount.") && key.ends_with(" super") {
            let options = value.split(',').filter(|option| !is_directory(option));
            return options.collect::<Vec<_>>().join(",");
        }
        match key {
            "env.HOSTNAME" | "text./etc/hostname" | "sysctl.kernel/hostname" | "uts.hostname"
                if value.trim_end_matches("\\n") == self.hostname =>
            {
                HOSTS.to_owned()
            }
            // A number in each namespace, from the reader's on.
            "status.NSpid" | "status.NSpgid" | "status.NSsid" => {
                format!("{} namespaces", value.split_whitespace().count())
            }
            "cgroup.devices/devices.list" => {
                // Escaped, as the probe writes several lines, and in any order.
                let mut lines: Vec<_> = value.split("\\n").collect();
                lines.sort_unstable();
                lines.join(", ")
            }
            // The node has what the pods before have brought.
            "interfaces" => {
                let of_any_pod = |name: &&str| ["lo", "eth0"].contains(name);
                value
                    .split(' ')
                    .filter(of_any_pod)
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            _ => value,
        }
    }
}

/// What the kernel's own file systems and that of the node's directory are like depends on the host: its memory, its
/// disks, the kernel's defaults.
fn mask_file_systems(report: &mut Report) {
    let places: Vec<_> = report
        .keys()
        .filter_map(|key| Some(key.strip_suffix(" root")?.to_owned()))
        .collect();
    for place in places {
        let of = |what: &str| format!("{place} {what}");
        let root = report.get(&of("root")).cloned().unwrap_or_default();
        let kind = report.get(&of("type")).cloned().unwrap_or_default();
        let hosts: &[&str] = match kind.as_str() {
            _ if root.starts_with("<node>") => &["type", "source", "super"],
            "devtmpfs" => &["super"],
            _ => &[],
        };
        for what in hosts {
            report.insert(of(what), HOSTS.to_owned());
        }
        if kind == "tmpfs"
            && let Some(options) = report.get_mut(&of("super"))
        {
            // CONFIG_TMPFS_INODE64 has it told.
            *options = options.replace(",inode64", "").replace(",inode32", "");
        }
    }
}

/// As proc_pid_mountinfo(5) spells a path.
fn escaped(path: &str) -> String {
    path.chars()
        .map(|c| match c {
            ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(c)),
            c => c.to_string(),
        })
        .collect()
}

/// The path from the root of the file system that it lies in, as the table of mounts spells it.
fn within_its_file_system(path: &str, table: &str) -> Option<String> {
    let path = escaped(path);
    let below = |point: &str| {
        let rest = path.strip_prefix(point.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    };
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        Some((
            point.len(),
            format!("{}{}", root.trim_end_matches('/'), below(point)?),
        ))
    });
    // Of several on one point the last is seen.
    mounts
        .max_by_key(|(length, _)| *length)
        .map(|(_, path)| path)
}

/// Runtimes keep files where they like.
fn place(root: &str) -> String {
    let name = root.rsplit('/').next().unwrap_or_default();
    match root.strip_prefix("<node>/") {
        Some(path) if !path.starts_with("rows/") => format!("<node>/.../{name}"),
        _ => root.to_owned(),
    }
}

fn is_directory(option: &str) -> bool {
    ["lowerdir", "upperdir", "workdir"]
        .iter()
        .any(|name| option.starts_with(name))
}

/// Without ids of pods and containers.
pub(crate) fn ids(text: &str) -> String {
    let mut masked = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_hexdigit() {
            word.push(c);
            continue;
        }
        masked += if word.len() == ID { "<id>" } else { &word };
        word.clear();
        masked.push(c);
    }
    masked.pop();
    masked
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TABLE: &str = "21 1 254:0 / / rw shared:1 - ext4 /dev/vda rw,discard
22 21 0:9 / /tmp rw - tmpfs tmpfs rw,size=12334460k
23 22 0:9 /deep /tmp/with\\040space rw - tmpfs tmpfs rw,size=12334460k
";

    #[test]
    fn a_path_is_known_by_what_the_mount_table_calls_it() {
        for (path, want) in [
            ("/home/node", "/home/node"),
            ("/tmp/node", "/node"),
            ("/tmp/with space/node", "/deep/node"),
            ("/tmp/with spaces", "/with\\040spaces"),
            ("/tmpfile", "/tmpfile"),
        ] {
            let found = within_its_file_system(path, TABLE);
            assert_eq!(found.as_deref(), Some(want), "{path}");
        }
    }

    fn report(hostname: &str, disk: &str, size: &str) -> Report {
        let mask = Mask {
            node: vec!["/tmp/node".into(), "/node".into()],
            cgroup: "/parent".into(),
            hostname: hostname.to_owned(),
            namespaces: Vec::new(),
        };
        let mount = |place: &str, root: &str, kind: &str, options: &str| {
            format!(
                "mount.{place} root\t{root}\nmount.{place} type\t{kind}\n\
                 mount.{place} source\t/dev/vda\nmount.{place} super\t{options}\n"
            )
        };
        let text = mount("/volume", "/node/rows/a", disk, size)
            + &mount("/dev/null", "/null", "devtmpfs", size)
            + &mount("/dev", "/", "tmpfs", "rw,size=65536k,inode64")
            + &format!("uts.hostname\t{hostname}\n");
        mask.apply(&text)
    }

    #[test]
    fn the_disk_below_the_node_and_the_size_of_memory_are_the_hosts() {
        let here = report("vm", "ext4", "rw,size=12334460k");
        assert_eq!(here, report("node-7", "xfs", "rw,size=4k"));
        assert_eq!(here["mount./volume super"], HOSTS);
        assert_eq!(here["mount./volume root"], "<node>/rows/a");
        assert_eq!(here["mount./dev super"], "rw,size=65536k");
        assert_eq!(here["mount./dev/null type"], "devtmpfs");
    }
}
