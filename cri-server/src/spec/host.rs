//! What the host can do: probed once, when the daemon starts.

use std::{fs, io, path::Path};

use nix::sys::statfs;

use super::{capabilities, seccomp};

/// Facts of this host, and the seccomp filters made on it so far.
#[derive(Debug)]
pub(crate) struct Host {
    /// `/sys/fs/cgroup` is the v2 hierarchy; hybrid hosts count as v1.
    pub cgroup_v2: bool,
    /// Capabilities that the daemon has and so can give, by number.
    pub permitted_caps: u64,
    /// Highest capability that the kernel knows.
    pub last_cap: u8,
    /// As in the CRI: `2MB`, `1GB`.
    pub hugepage_sizes: Vec<String>,
    pub apparmor: bool,
    pub selinux: bool,
    /// Why pods cannot have user namespaces, if they cannot. Another than the host itself finds it out.
    pub user_namespaces: Result<(), String>,
    pub filters: seccomp::Cache,
}

impl Host {
    /// Reads `/proc` and `/sys` only, and compiles the seccomp filters that nearly all containers use.
    pub(crate) fn probe() -> io::Result<Self> {
        let cgroup = statfs::statfs("/sys/fs/cgroup")?;
        let apparmor = fs::read("/sys/module/apparmor/parameters/enabled");
        let host = Self {
            cgroup_v2: cgroup.filesystem_type() == statfs::CGROUP2_SUPER_MAGIC,
            permitted_caps: permitted_caps(&fs::read_to_string("/proc/self/status")?)?,
            last_cap: read_number("/proc/sys/kernel/cap_last_cap")?,
            hugepage_sizes: hugepage_sizes(Path::new("/sys/kernel/mm/hugepages"))?,
            apparmor: apparmor.is_ok_and(|text| text.starts_with(b"Y")),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            user_namespaces: Err("not found out yet".into()),
            filters: seccomp::Cache::default(),
        };
        host.filters.warm().map_err(io::Error::other)?;
        let missing = capabilities::names(host.all_capabilities() & !host.permitted_caps);
        if !missing.is_empty() {
            tracing::warn!(
                ?missing,
                "containers go without the capabilities that the daemon lacks"
            );
        }
        Ok(host)
    }

    /// Every capability that the kernel knows.
    pub(super) fn all_capabilities(&self) -> u64 {
        u64::MAX >> (63 - self.last_cap.min(63))
    }

    /// A host with everything, on v1.
    #[cfg(test)]
    pub(super) fn for_test() -> Self {
        Self {
            cgroup_v2: false,
            permitted_caps: (1 << 41) - 1,
            last_cap: 40,
            hugepage_sizes: vec!["2MB".into(), "1GB".into()],
            apparmor: false,
            selinux: false,
            user_namespaces: Ok(()),
            filters: seccomp::Cache::default(),
        }
    }
}

fn permitted_caps(status: &str) -> io::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.ok_or_else(|| io::Error::other("/proc/self/status has no CapPrm"))
}

fn read_number(path: &str) -> io::Result<u8> {
    let text = fs::read_to_string(path)?;
    text.trim_end()
        .parse()
        .map_err(|error| io::Error::other(format!("{path}: {text:?}: {error}")))
}

/// From the names of folders as in `hugepages-2048kB`. No folder, no huge pages.
fn hugepage_sizes(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut sizes = Vec::new();
    for entry in entries {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let kibibytes = name
            .strip_prefix("hugepages-")
            .and_then(|name| name.strip_suffix("kB"));
        sizes.extend(kibibytes.and_then(|size| size.parse().ok()).map(page_size));
    }
    sizes.sort();
    Ok(sizes)
}

/// The largest unit that divides the size, as the kernel names hugetlb's cgroup files.
fn page_size(kibibytes: u64) -> String {
    match kibibytes {
        size if size % (1 << 20) == 0 => format!("{}GB", size >> 20),
        size if size % (1 << 10) == 0 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_agrees_with_the_kernel() {
        let host = Host::probe().unwrap();
        assert!(host.last_cap >= 40, "{}", host.last_cap);
        assert_eq!(host.permitted_caps & !host.all_capabilities(), 0);
    }

    #[test]
    fn page_sizes_are_named_as_hugetlbs_files_are() {
        for (kibibytes, want) in [
            (64, "64KB"),
            (2048, "2MB"),
            (1 << 20, "1GB"),
            (32768, "32MB"),
        ] {
            assert_eq!(page_size(kibibytes), want);
        }
    }

    #[test]
    fn the_permitted_set_is_read_from_status() {
        assert_eq!(
            permitted_caps("CapInh:\t0\nCapPrm:\t000001fffeffffff\n").unwrap(),
            0x1ff_feff_ffff
        );
        assert!(permitted_caps("CapPrm:\tx\n").is_err());
    }
}
