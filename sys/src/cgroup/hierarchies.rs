//! Which cgroup hierarchies the host has, from its mount table (cgroups(7)).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

/// Where the hierarchies are mounted.
#[derive(Clone, Debug, Default)]
pub struct Hierarchies {
    pub v1: Vec<V1>,
    /// Also on hybrid hosts, where it has few controllers or none.
    pub v2: Option<PathBuf>,
}

/// A v1 hierarchy.
#[derive(Clone, Debug, PartialEq)]
pub struct V1 {
    pub mount: PathBuf,
    /// "cpu", "memory" ...; "name=systemd" for one without controller.
    pub controllers: Vec<String>,
}

impl V1 {
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

impl Hierarchies {
    /// Looks where every distribution mounts them, or else through the mount table, which is long on a busy host.
    pub fn detect() -> io::Result<Self> {
        if let Some(found) = Self::at_usual_place(&fs::read_to_string("/proc/self/cgroup")?) {
            return Ok(found);
        }
        let found = Self::parse(&fs::read_to_string("/proc/self/mountinfo")?);
        if found.v1.is_empty() && found.v2.is_none() {
            return Err(io::Error::other(
                "no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup",
            ));
        }
        Ok(found)
    }

    /// `own` is proc_pid_cgroup(5), which lists every hierarchy. `None` when one is not at its usual place.
    fn at_usual_place(own: &str) -> Option<Self> {
        let is =
            |path: &Path, magic| statfs(path).is_ok_and(|found| found.filesystem_type() == magic);
        let place = Path::new("/sys/fs/cgroup");
        if is(place, CGROUP2_SUPER_MAGIC) {
            return Some(Self {
                v1: Vec::new(),
                v2: Some(place.into()),
            });
        }
        let mut found = Self::default();
        for line in own.lines() {
            let names = line.split(':').nth(1)?;
            let (mount, magic) = match names {
                "" => (place.join("unified"), CGROUP2_SUPER_MAGIC),
                names => (
                    place.join(names.trim_start_matches("name=")),
                    CGROUP_SUPER_MAGIC,
                ),
            };
            if !is(&mount, magic) {
                return None;
            }
            match names {
                "" => found.v2 = Some(mount),
                names => found.v1.push(V1 {
                    mount,
                    controllers: names.split(',').map(Into::into).collect(),
                }),
            }
        }
        Some(found).filter(|found| !found.v1.is_empty())
    }

    /// The one that everything in a cgroup can be killed by: v2, or else v1's freezer.
    pub fn for_killing(&self) -> Self {
        let freezer = || {
            self.v1
                .iter()
                .filter(|hierarchy| hierarchy.has("freezer"))
                .cloned()
                .collect()
        };
        Self {
            v1: if self.v2.is_some() {
                Vec::new()
            } else {
                freezer()
            },
            v2: self.v2.clone(),
        }
    }

    /// v2 alone.
    pub fn is_unified(&self) -> bool {
        self.v1.is_empty()
    }

    pub(super) fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.v1
            .iter()
            .map(|hierarchy| hierarchy.mount.as_path())
            .chain(self.v2.as_deref())
    }

    /// proc_pid_mountinfo(5).
    fn parse(table: &str) -> Self {
        let mut found = Self::default();
        for line in table.lines() {
            let Some((place, filesystem)) = line.split_once(" - ") else {
                continue;
            };
            let mut place = place.split(' ').skip(3);
            let (Some(root), Some(mount)) = (place.next(), place.next()) else {
                continue;
            };
            // A part of a hierarchy, as a container sees it, is not its root.
            if root != "/" {
                continue;
            }
            let mut filesystem = filesystem.split(' ');
            match filesystem.next() {
                Some("cgroup2") if found.v2.is_none() => found.v2 = Some(mount.into()),
                Some("cgroup") => {
                    let options = filesystem.nth(1).unwrap_or_default();
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|name| is_controller(name))
                        .map(Into::into)
                        .collect();
                    if !found
                        .v1
                        .iter()
                        .any(|known| known.controllers == controllers)
                    {
                        found.v1.push(V1 {
                            mount: mount.into(),
                            controllers,
                        });
                    }
                }
                _ => {}
            }
        }
        found
    }
}

fn is_controller(option: &str) -> bool {
    !matches!(
        option,
        "rw" | "ro" | "xattr" | "noprefix" | "clone_children" | "cpuset_v2_mode" | "favordynmods"
    ) && !option.starts_with("release_agent=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_has_both() {
        let table = "25 20 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                     26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n\
                     27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                     28 25 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                     29 25 0:25 /x /mnt rw - cgroup cgroup rw,memory\n";
        let found = Hierarchies::parse(table);
        assert_eq!(
            found.v2.as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified"))
        );
        assert!(!found.is_unified());
        assert_eq!(found.v1[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(found.v1[1].controllers, ["name=systemd"]);
        assert_eq!(found.v1.len(), 2);
    }

    #[test]
    fn both_ways_find_the_same() {
        let text = |path| fs::read_to_string(path).unwrap();
        let by_table = Hierarchies::parse(&text("/proc/self/mountinfo"));
        let by_place = Hierarchies::at_usual_place(&text("/proc/self/cgroup"));
        let sorted = |mut found: Hierarchies| {
            found.v1.sort_by(|a, b| a.mount.cmp(&b.mount));
            (found.v1, found.v2)
        };
        if let Some(by_place) = by_place {
            assert_eq!(sorted(by_place), sorted(by_table));
        }
        assert!(
            Hierarchies::at_usual_place("1:no-such-controller:/\n")
                .is_none_or(|found| found.is_unified())
        );
    }

    #[test]
    fn a_v2_host_is_unified() {
        let found =
            Hierarchies::parse("26 25 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(found.is_unified());
    }
}
