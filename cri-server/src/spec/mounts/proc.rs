//! What may be mounted on /proc and below it: no more than other runtimes allow (runc, libcontainer/rootfs_linux.go,
//! checkProcMount).
//!
//! Programs and the runtime itself take what is there for the kernel's. Only files that emulators of a smaller machine, such as
//! lxcfs, stand in for may be covered.

const PROC: &str = "/proc";
const FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Reason for which nothing may be mounted at a clean path, if there is one. On /proc itself a bind may, whose source is the
/// shim's to look at.
pub(crate) fn refusal(destination: &str, is_bind: bool) -> Option<String> {
    if destination == PROC {
        return (!is_bind).then(|| "only a proc file system can be mounted on /proc".into());
    }
    let is_below = destination
        .strip_prefix(PROC)
        .is_some_and(|rest| rest.starts_with('/'));
    (is_below && !FILES.contains(&destination)).then(|| {
        format!(
            "nothing can be mounted on {destination}: below /proc only on {}",
            FILES.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_proc_only_what_is_emulated_is_covered() {
        for allowed in [
            "/proc/meminfo",
            "/proc/sys/kernel/ns_last_pid",
            "/process",
            "/a/proc/b",
        ] {
            assert_eq!(refusal(allowed, true), None);
        }
        for refused in [
            "/proc/self",
            "/proc/sys",
            "/proc/net/dev",
            "/proc/stat/x",
            "/proc/1/attr",
        ] {
            assert!(refusal(refused, true).unwrap().contains(refused));
        }
        assert_eq!(refusal("/proc", true), None);
        assert!(refusal("/proc", false).is_some());
    }
}
