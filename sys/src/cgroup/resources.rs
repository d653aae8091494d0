//! The limits of a cgroup.

/// 0 or empty: leave the kernel's default. -1: unlimited, where the kernel has it.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds in a period.
    pub cpu_quota: i64,
    /// 2 to 262144, as v1 has it.
    pub cpu_shares: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Bytes.
    pub memory_limit: i64,
    /// Bytes, memory and swap together, as v1 has it.
    pub memory_and_swap_limit: i64,
    /// Processes and threads.
    pub pids_limit: i64,
    pub hugepage_limits: Vec<HugepageLimit>,
    /// v2 files and their values.
    pub unified: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct HugepageLimit {
    /// "2MB".
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}
