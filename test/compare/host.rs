//! What a report has from the host that it was made on: limits that the daemon was started with, processors, the kernel's
//! devices and options. A recording leaves it out; it comes from the host that the recording is compared on.
//!
//! ```text
//!   inherited   a value like the host's is recorded as "the host's", and stands for that of the host at hand
//!   the kernel  what has another answer on the host at hand than it had there, outside of containers, is not compared
//! ```

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    mask::{HOSTS, Mask},
    recording::{Recording, Report},
};

/// What `unshare` is to make new: whose settings begin as the kernel has them, or as the first namespace has them.
const NEW: [&str; 3] = ["--net", "--ipc", "--uts"];

/// Reports of the probe outside of containers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// In the namespaces that the runtime's daemon has.
    pub(crate) own: Report,
    /// In new ones.
    pub(crate) new: Report,
}

impl Host {
    pub(crate) fn ask(probe: &Path, mask: &Mask) -> Result<Self> {
        let report = |mut command: Command| -> Result<Report> {
            let output = command
                .stdin(Stdio::null())
                .output()
                .context("run the probe")?;
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "the probe outside of containers: {error}"
            );
            Ok(mask.apply(&String::from_utf8(output.stdout)?))
        };
        let mut own = Command::new(probe);
        own.arg("report");
        let mut new = Command::new("unshare");
        new.args(NEW).arg("--").arg(probe).arg("report");
        Ok(Self {
            own: report(own)?,
            new: report(new)?,
        })
    }

    /// The report that a value of this key is inherited from.
    fn source(&self, key: &str, report: &Report) -> Option<&Report> {
        let shares = |namespace: &str| {
            let name = format!("namespace.{namespace}");
            report.get(&name).is_some_and(|value| value == HOSTS)
        };
        let by_namespace = |namespace| {
            Some(if shares(namespace) {
                &self.own
            } else {
                &self.new
            })
        };
        match key {
            "process.nice"
            | "proc.coredump_filter"
            | "proc.loginuid"
            | "proc.personality"
            | "proc.timerslack_ns"
            | "status.SigBlk"
            | "status.SpeculationIndirectBranch"
            | "status.Speculation_Store_Bypass"
            | "status.Cpus_allowed_list"
            | "status.Mems_allowed_list"
            | "cgroup.memory/memory.swappiness" => Some(&self.own),
            // One that a row mounts itself lies in the node's directory.
            "mount./dev/shm super" if shares("ipc") => Some(&self.own),
            "sysctl.kernel/domainname" | "uts.domainname" => by_namespace("uts"),
            _ if key.starts_with("limit.") => Some(&self.own),
            _ if key.ends_with("cpuset.cpus") || key.ends_with("cpuset.mems") => Some(&self.own),
            _ if key.starts_with("sysctl.net/") => by_namespace("net"),
            _ if key.starts_with("sysctl.kernel/msg")
                || key.starts_with("sysctl.kernel/shm")
                || key.starts_with("sysctl.fs/mqueue/") =>
            {
                by_namespace("ipc")
            }
            _ => None,
        }
    }

    /// `report` as a recording has it.
    fn without(&self, report: &Report) -> Report {
        let value = |key: &String, value: &String| {
            let source = self.source(key, report);
            let inherited = source.is_some_and(|source| source.get(key) == Some(value));
            if inherited { HOSTS } else { value.as_str() }.to_owned()
        };
        let pairs = report.iter();
        pairs
            .map(|(key, old)| (key.clone(), value(key, old)))
            .collect()
    }

    /// `report` as it would be on this host.
    fn with(&self, report: &Report) -> Report {
        let value = |key: &String, value: &String| match self.source(key, report) {
            Some(source) if value == HOSTS => source.get(key).cloned(),
            _ => Some(value.clone()),
        };
        let pairs = report.iter();
        pairs
            .filter_map(|(key, old)| Some((key.clone(), value(key, old)?)))
            .collect()
    }

    /// Keys that no container can be blamed for: the kernels or the devices differ.
    pub(crate) fn unlike(&self, other: &Self) -> BTreeSet<String> {
        let keys = self.own.keys().chain(other.own.keys());
        keys.filter(|key| is_of_the_kernel(key) && self.own.get(*key) != other.own.get(*key))
            .cloned()
            .collect()
    }
}

/// Whether what the host answers depends on nothing but its kernel, its devices and its hardware.
fn is_of_the_kernel(key: &str) -> bool {
    let begins = |names: &[&str]| names.iter().any(|name| key.starts_with(name));
    begins(&["attr.", "call.", "dev.", "device.", "open.", "path./proc/", "path./sys/", "socket."])
        // Of one instance, and of what is at work.
        && !begins(&["dev./dev/fd", "dev./dev/mqueue", "dev./dev/pts", "dev./dev/shm", "path./sys/fs/cgroup"])
}

/// Whether `key` tells of something in `left`, or of a mount on it.
pub(crate) fn is_left_out(key: &str, left: &BTreeSet<String>) -> bool {
    if left.contains(key) {
        return true;
    }
    let place = key
        .strip_prefix("mount.")
        .and_then(|rest| rest.split(' ').next());
    place.is_some_and(|place| {
        left.contains(&format!("path.{place}")) || left.contains(&format!("dev.{place}"))
    })
}

impl Recording {
    /// What is to be kept of it: nothing that is the host's own.
    pub(crate) fn to_keep(&self) -> Self {
        let reports = self.reports.iter();
        let of_the_kernel = self
            .host
            .own
            .iter()
            .filter(|(key, _)| is_of_the_kernel(key));
        Self {
            facts: self.facts.clone(),
            host: Host {
                own: of_the_kernel
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
                new: Report::new(),
            },
            reports: reports
                .map(|(row, pair)| {
                    (
                        row.clone(),
                        pair.each_ref().map(|report| self.host.without(report)),
                    )
                })
                .collect(),
        }
    }

    /// The recording as it would be on the host of another, but for what [`Host::unlike`] has.
    pub(crate) fn on(mut self, host: &Host) -> Self {
        for report in self.reports.values_mut().flatten() {
            *report = host.with(report);
        }
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn report(pairs: &[(&str, &str)]) -> Report {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    /// A host, and what a container with a network of its own reports there.
    fn host(processes: &str, forwarding: [&str; 2], kvm: bool) -> (Host, Report) {
        let mut own = report(&[
            ("limit.nproc", processes),
            ("sysctl.net/ipv4/ip_forward", forwarding[0]),
            ("arguments", "of no container"),
        ]);
        if kvm {
            own.insert("dev./dev/kvm".into(), "c 10:232".into());
        }
        let new = report(&[("sysctl.net/ipv4/ip_forward", forwarding[1])]);
        let container = report(&[
            ("limit.nproc", processes),
            ("limit.core", "0 0"),
            ("namespace.net", "its own"),
            ("sysctl.net/ipv4/ip_forward", forwarding[1]),
        ]);
        (Host { own, new }, container)
    }

    #[test]
    fn a_recording_holds_on_another_host() {
        let (there, recorded) = host("96365 96365", ["1", "0"], true);
        let (here, wanted) = host("95000 95000", ["1", "1"], false);
        let kept = there.without(&recorded);
        assert_eq!(kept["limit.nproc"], HOSTS);
        assert_eq!(kept["limit.core"], "0 0", "the container's own");
        assert_eq!(here.with(&kept), wanted);
        assert_eq!(there.with(&kept), recorded);
    }

    #[test]
    fn what_only_one_kernel_has_is_left_out_and_nothing_else() {
        let (there, _) = host("1 1", ["1", "0"], true);
        let (here, _) = host("2 2", ["0", "0"], false);
        let left = here.unlike(&there);
        assert_eq!(left, BTreeSet::from(["dev./dev/kvm".to_owned()]));
        assert!(there.unlike(&there).is_empty());
        assert!(is_left_out("mount./dev/kvm super", &left));
        assert!(!is_left_out("mount./dev super", &left));
        assert!(!is_left_out("limit.nproc", &left));
    }

    /// A value of the machine that containerd ran on, such as its limit of processes, makes this fail.
    #[test]
    fn the_recording_has_no_value_of_the_machine_that_it_was_made_on() {
        let kept = crate::recording::read(&crate::data(crate::RECORDING)).unwrap();
        // A host whose every value is strange: what is inherited has to be what it has.
        let strange = |report: &Report| -> Report {
            report
                .keys()
                .map(|key| (key.clone(), "strange".to_owned()))
                .collect()
        };
        let set_by_containerd = |key: &str, row: &str| match key {
            "sysctl.net/ipv4/ip_unprivileged_port_start" | "sysctl.net/ipv4/ping_group_range" => {
                true
            }
            "sysctl.net/ipv4/ip_local_port_range" | "sysctl.kernel/shm_rmid_forced" => {
                row == "sysctls"
            }
            "status.Cpus_allowed_list" | "cgroup.cpuset/cpuset.cpus" => row == "memory-and-cpu",
            _ => false,
        };
        for (row, report) in kept
            .reports
            .iter()
            .flat_map(|(row, pair)| pair.iter().map(move |report| (row, report)))
        {
            let all = strange(report);
            let host = Host {
                own: all.clone(),
                new: all,
            };
            for (key, value) in report {
                let inherited = host.source(key, report).is_some();
                assert!(
                    !inherited || value == HOSTS || set_by_containerd(key, row),
                    "{row}: {key} is the machine's own: {value}"
                );
                let size = value.split("size=").nth(1).unwrap_or_default();
                let size: String = size.chars().take_while(char::is_ascii_digit).collect();
                assert!(
                    size.len() < 6,
                    "{row}: {key} has the size of a machine: {value}"
                );
                assert!(
                    !value.contains("/dev/vd") && !value.contains("/dev/sd"),
                    "{row}: {key} has a disk: {value}"
                );
            }
        }
    }
}
