//! The container's cgroup: what it may use, and what it is killed by.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use corten_proto::shim::{self, FailureKind};
use corten_sys::cgroup::{Cgroup, DeviceKind, DeviceRule, Hierarchies, HugepageLimit, Resources};
use rustix::io::write;

use crate::failure::{Doing, Result, failure, invalid};

/// Field of CreateContainer whose limits the plan has.
const FIELD: &str = "config.linux.resources";

/// A container's cgroup, and the host's hierarchies.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) hierarchies: Hierarchies,
    pub(super) path: String,
    /// What of the limits this host does not have.
    pub(super) warnings: Vec<String>,
    /// The v1 files `tasks`, for a child to attach itself.
    tasks: Vec<OwnedFd>,
}

impl Group {
    /// Makes its v2 part, into which init is born.
    pub(super) fn create(plan: &shim::Cgroup) -> Result<Self> {
        let hierarchies = Hierarchies::detect().doing("find", "the cgroup hierarchies")?;
        let group = Self {
            hierarchies,
            path: plan.path.clone(),
            warnings: Vec::new(),
            tasks: Vec::new(),
        };
        let made = match plan.delegated.as_str() {
            "" => group.cgroup().create_v2(),
            delegated => group.cgroup().create_v2_below(delegated),
        };
        made.doing("make cgroup", &plan.path)?;
        Ok(group)
    }

    /// Makes the rest, and sets the limits.
    pub(super) fn complete(&mut self, plan: &shim::Cgroup) -> Result<()> {
        self.cgroup().create_v1().doing("make cgroup", &plan.path)?;
        if let Some(limits) = &plan.resources {
            let applied = self.cgroup().apply(&resources(limits));
            applied.map_err(|error| refused(&error))?;
        }
        let tasks = self.cgroup().open_tasks();
        self.tasks = tasks.doing("open cgroup", &plan.path)?;
        let limits = plan.resources.as_ref().map(resources);
        self.warnings = self.missing(&limits.unwrap_or_default());
        Ok(())
    }

    /// A limit of huge pages is not worth a container that does not run: a node without the controller is set up so.
    pub(super) fn missing(&self, limits: &Resources) -> Vec<String> {
        let mut wanted = limits.clone();
        // The kubelet asks for 0 of every size that a pod does not name.
        wanted.hugepage_limits.retain(|limit| limit.limit != 0);
        let warning = |size: &str| {
            format!("huge pages of {size} are not limited: this host has no hugetlb controller")
        };
        let sizes = self.cgroup().unlimited_hugepages(&wanted);
        sizes.into_iter().map(warning).collect()
    }

    pub(super) fn cgroup(&self) -> Cgroup<'_> {
        Cgroup::new(&self.hierarchies, &self.path)
    }

    /// The v2 cgroup that a process can be born into.
    pub(super) fn open_v2(&self) -> Result<Option<OwnedFd>> {
        self.cgroup().open_v2().doing("open cgroup", &self.path)
    }

    /// Attaches the calling process, which has one thread, to the v1 cgroups. One that was cloned before they were made
    /// opens them itself.
    pub(super) fn attach(&self) -> Result<()> {
        let opened = if self.tasks.is_empty() {
            self.cgroup().open_tasks()
        } else {
            Ok(Vec::new())
        };
        let opened = opened.doing("open cgroup", &self.path)?;
        let mut tasks = self.tasks.iter().chain(&opened);
        tasks
            .try_for_each(|tasks| write(tasks.as_fd(), b"0").map(|_| ()))
            .doing("enter cgroup", &self.path)
    }

    /// Lets its processes open the default devices and these, or all.
    pub(super) fn allow_devices(&self, rules: &[DeviceRule], all: bool) -> Result<()> {
        let rules = if all {
            vec![rule(DeviceKind::All, None, None, "rwm")]
        } else {
            [defaults(), rules.to_vec()].concat()
        };
        self.cgroup()
            .allow_devices(&rules)
            .doing("allow devices in cgroup", &self.path)
    }
}

/// Failure of a limit. Where the kernel refuses the value it is the request's, whose field the error begins with.
fn refused(error: &io::Error) -> shim::Failure {
    let text = error.to_string();
    match (error.kind(), text.split_once(": ")) {
        (io::ErrorKind::InvalidInput, Some((field, why))) => {
            invalid("set", format!("{FIELD}.{field}"), why)
        }
        _ => failure(FailureKind::FailureInternal, "set limits", "", error),
    }
}

/// What every container may use: any node may be made, and these may be opened.
fn defaults() -> Vec<DeviceRule> {
    let mut rules = vec![
        rule(DeviceKind::Char, None, None, "m"),
        rule(DeviceKind::Block, None, None, "m"),
    ];
    // null, zero, full, random, urandom; tty, ptmx (Documentation/admin-guide/devices.txt). Not 5:1, the host's console: a
    // container's is a terminal of its own.
    let numbers = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
    rules.extend(
        numbers.map(|(major, minor)| rule(DeviceKind::Char, Some(major), Some(minor), "rwm")),
    );
    // Unix98 terminals.
    rules.push(rule(DeviceKind::Char, Some(136), None, "rwm"));
    rules
}

fn rule(kind: DeviceKind, major: Option<u32>, minor: Option<u32>, permissions: &str) -> DeviceRule {
    DeviceRule {
        kind,
        major,
        minor,
        permissions: permissions.to_owned(),
    }
}

pub(super) fn resources(limits: &shim::Resources) -> Resources {
    let hugepage = |limit: &shim::HugepageLimit| HugepageLimit {
        page_size: limit.page_size.clone(),
        limit: limit.limit,
    };
    Resources {
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        memory_limit: limits.memory_limit,
        memory_and_swap_limit: limits.memory_and_swap_limit,
        pids_limit: limits.pids_limit,
        hugepage_limits: limits.hugepage_limits.iter().map(hugepage).collect(),
        unified: limits
            .unified
            .iter()
            .map(|(file, value)| (file.clone(), value.clone()))
            .collect(),
    }
}
