//! pids: processes and threads.

use super::{
    Cgroup, Resources,
    setting::{OrMax, Setting},
};

pub(super) fn settings(cgroup: &Cgroup<'_>, resources: &Resources) -> Vec<Setting> {
    let dir = cgroup.v1("pids").or_else(|| cgroup.v2());
    let dir = dir.filter(|_| resources.pids_limit != 0);
    let setting = dir.map(|dir| {
        Setting::new(
            "pids_limit",
            dir.join("pids.max"),
            OrMax(resources.pids_limit),
        )
    });
    Vec::from_iter(setting)
}
