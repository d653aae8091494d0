//! What a cgroup uses. A part that no controller of this host counts is `None`.

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Nanoseconds of CPU time since the cgroup was made, over all CPUs.
    pub cpu: Option<u64>,
    pub memory: Option<MemoryUsage>,
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
}

/// In bytes, but for the faults.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryUsage {
    /// All of it, cache too.
    pub total: u64,
    /// Cache of files that were not used lately: the first that the kernel takes back.
    pub inactive_file: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// `None` is without limit.
    pub limit: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
    /// `None` where the kernel does not count it.
    pub swap: Option<SwapUsage>,
}

impl MemoryUsage {
    /// What the kubelet evicts by.
    pub fn working_set(&self) -> u64 {
        self.total.saturating_sub(self.inactive_file)
    }
}

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SwapUsage {
    pub used: u64,
    /// `None` is without limit.
    pub limit: Option<u64>,
}

/// Time lost to a shortage (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// At least one task was stalled.
    pub some: Stall,
    /// All tasks were stalled at once.
    pub full: Stall,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10, 60 and 300 seconds.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    /// Nanoseconds since the cgroup was made.
    pub total: u64,
}
