//! Takes out of a report what differs from container to container, or from machine to machine, by nature.

use std::{fs, path::Path};

use anyhow::Result;

use crate::recording::Report;

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
/// Length of a container's id.
const ID: usize = 64;

#[derive(Debug)]
pub(crate) struct Mask {
    node: String,
    cgroup: String,
    /// The node's own, as /proc/self/ns shows them.
    namespaces: Vec<String>,
}

impl Mask {
    pub(crate) fn new(node: &Path, cgroup_parent: &str) -> Result<Self> {
        let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}"));
        let namespaces = NAMESPACES.map(link).into_iter();
        let namespaces = namespaces.map(|link| Ok(link?.display().to_string()));
        Ok(Self {
            node: node.display().to_string(),
            cgroup: cgroup_parent.to_owned(),
            namespaces: namespaces.collect::<Result<_>>()?,
        })
    }

    /// `text` is what the probe has written.
    pub(crate) fn apply(&self, text: &str) -> Report {
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        lines
            .filter(|(key, _)| *key != "end")
            .map(|(key, value)| (key.to_owned(), self.value(key, value)))
            .collect()
    }

    fn value(&self, key: &str, value: &str) -> String {
        let value = ids(&value
            .replace(&self.node, "<node>")
            .replace(&self.cgroup, "<cgroup>"));
        if key.starts_with("namespace.") {
            let of_the_node = self.namespaces.contains(&value);
            return if of_the_node { "the host's" } else { "its own" }.to_owned();
        }
        if key.starts_with("mount.") && key.ends_with(" root") {
            return place(&value);
        }
        if key.starts_with("mount.") && key.ends_with(" super") {
            let options = value.split(',').filter(|option| !is_directory(option));
            return options.collect::<Vec<_>>().join(",");
        }
        match key {
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
