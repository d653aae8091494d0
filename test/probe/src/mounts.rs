//! The mount table and the cgroups.

use std::{collections::HashMap, fs, path::Path};

use crate::report::{Report, failure};

/// Files that hold a limit, of v1 and of v2; the rest of a cgroup counts.
const LIMITS: [&str; 22] = [
    "blkio.weight",
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "cpu.max",
    "cpu.shares",
    "cpu.weight",
    "cpuset.cpus",
    "cpuset.mems",
    "devices.list",
    "freezer.state",
    "hugetlb.2MB.limit_in_bytes",
    "hugetlb.2MB.max",
    "memory.high",
    "memory.limit_in_bytes",
    "memory.low",
    "memory.max",
    "memory.memsw.limit_in_bytes",
    "memory.oom.group",
    "memory.oom_control",
    "memory.swap.max",
    "memory.swappiness",
    "pids.max",
];
const CGROUPS: &str = "/sys/fs/cgroup";

pub(crate) fn all(report: &mut Report) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points = HashMap::new();
    for line in table.lines() {
        mount(report, line, &mut points);
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in own.lines() {
        // Numbers of hierarchies are the host's.
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (parts.next(), parts.next()) {
            report.add(format!("cgroup.of.{controllers}"), path);
        }
    }
    cgroup(report, Path::new(CGROUPS), "");
}

/// One line of proc_pid_mountinfo(5). A further mount on one place bears a number.
fn mount(report: &mut Report, line: &str, points: &mut HashMap<String, usize>) -> Option<()> {
    let (front, back) = line.split_once(" - ")?;
    let front: Vec<_> = front.split(' ').collect();
    let [
        _id,
        _parent,
        _device,
        root,
        point,
        options,
        propagation @ ..,
    ] = &front[..]
    else {
        return None;
    };
    let mut back = back.splitn(3, ' ');
    let (kind, source, more) = (back.next()?, back.next()?, back.next()?);
    let count = points.entry((*point).to_owned()).or_default();
    *count += 1;
    let place = match *count {
        1 => format!("mount.{point}"),
        count => format!("mount.{point}#{count}"),
    };
    // Peer groups have numbers; that there is one is what counts.
    let propagation: Vec<_> = propagation
        .iter()
        .map(|field| field.split(':').next().unwrap_or_default())
        .collect();
    report.add(format!("{place} type"), kind);
    report.add(format!("{place} source"), source);
    report.add(format!("{place} root"), root);
    report.add(format!("{place} options"), options);
    report.add(format!("{place} super"), more);
    report.add(format!("{place} propagation"), propagation.join(","));
    Some(())
}

/// The limits of a cgroup and of those that are seen below it, which on v1 are its hierarchies.
fn cgroup(report: &mut Report, directory: &Path, name: &str) {
    for file in LIMITS {
        let path = directory.join(file);
        if !path.exists() {
            continue;
        }
        let value = fs::read_to_string(path);
        let value = value.map_or_else(|error| failure(&error), |text| text.trim().to_owned());
        report.add(format!("cgroup.{name}{file}"), value);
    }
    // Not below a container's own cgroup: with the host's view there is no end.
    if !name.is_empty() {
        return;
    }
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let hierarchies: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    for hierarchy in hierarchies {
        let below = directory.join(&hierarchy);
        if below.join("cgroup.procs").exists() {
            cgroup(report, &below, &format!("{hierarchy}/"));
            let writable = fs::File::options()
                .write(true)
                .open(below.join("cgroup.procs"));
            report.add(
                format!("cgroup.{hierarchy}/write"),
                crate::report::outcome(writable),
            );
        }
    }
}
