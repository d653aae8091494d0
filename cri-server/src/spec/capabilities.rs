//! The capability sets, as bit masks by capability number.

use corten_proto::{cri, shim};

use super::{Host, Invalid, Security};

/// `include/uapi/linux/capability.h`, by number; the last is of Linux 5.9.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has when nobody says otherwise: the set that Docker chose and Kubernetes
/// documents.
pub(super) const DEFAULT: u64 = mask(&[
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SYS_CHROOT",
    "MKNOD",
    "AUDIT_WRITE",
    "SETFCAP",
]);

/// Of several names, all of them known: the mask, at compile time.
pub(super) const fn mask(names: &[&str]) -> u64 {
    let mut mask = 0;
    let mut i = 0;
    while i < names.len() {
        let mut number = 0;
        while !equal(NAMES[number], names[i]) {
            number += 1; // an unknown name runs out of the table, and the build fails
        }
        mask |= 1 << number;
        i += 1;
    }
    mask
}

/// `==` of strings is not const.
const fn equal(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// The names of the capabilities in `mask`, as CAP_ADMIN and so on.
pub(super) fn names(mask: u64) -> Vec<String> {
    (0..64)
        .filter(|number| mask & (1 << number) != 0)
        .map(name)
        .collect()
}

fn name(number: usize) -> String {
    NAMES
        .get(number)
        .map_or_else(|| format!("CAP_{number}"), |name| format!("CAP_{name}"))
}

/// Bounding, permitted and effective get the same set; a process that is not root loses the latter
/// two by the kernel's rules when it execs. Inheritable stays empty (CVE-2022-24769) save for
/// ambient ones, which the kernel requires there.
///
/// What the daemon does not have itself cannot be given away (capset(2): EPERM), so every set is
/// cut down to it.
pub(super) fn plan(host: &Host, security: Security<'_>) -> Result<shim::Capabilities, Invalid> {
    let all = host.all_capabilities();
    let asked = security.0.and_then(|context| context.capabilities.as_ref());
    let (set, ambient) = match asked {
        _ if security.privileged() => (all, 0),
        None => (DEFAULT, 0),
        Some(asked) => (
            effective(asked, all)?,
            masks("add_ambient_capabilities", asked)?.of(all),
        ),
    };
    let set = (set | ambient) & host.permitted_caps;
    let ambient = ambient & host.permitted_caps;
    Ok(shim::Capabilities {
        bounding: set,
        effective: set,
        permitted: set,
        inheritable: ambient,
        ambient,
    })
}

/// ALL goes first whichever list it is in, so that names beside it still count: add ALL and drop
/// CHOWN is all but one.
fn effective(asked: &cri::Capability, all: u64) -> Result<u64, Invalid> {
    let add = masks("add_capabilities", asked)?;
    let drop = masks("drop_capabilities", asked)?;
    let start = match (add.all, drop.all) {
        (_, true) => 0,
        (true, false) => all,
        (false, false) => DEFAULT,
    };
    Ok((start | add.named) & !drop.named)
}

struct Masks {
    all: bool,
    named: u64,
}

impl Masks {
    fn of(&self, all: u64) -> u64 {
        if self.all { all } else { self.named }
    }
}

fn masks(list: &str, asked: &cri::Capability) -> Result<Masks, Invalid> {
    let names = match list {
        "add_capabilities" => &asked.add_capabilities,
        "drop_capabilities" => &asked.drop_capabilities,
        _ => &asked.add_ambient_capabilities,
    };
    let mut masks = Masks {
        all: false,
        named: 0,
    };
    for (i, name) in names.iter().enumerate() {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            masks.all = true;
        } else if let Some(number) = NAMES.iter().position(|known| *known == bare) {
            masks.named |= 1 << number;
        } else {
            let field = format!("{}.capabilities.{list}[{i}]", Security::FIELD);
            return Err(Invalid::new(field, format!("{name:?} is not a capability")));
        }
    }
    Ok(masks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = (1 << 41) - 1;

    fn planned(
        add: &[&str],
        drop: &[&str],
        ambient: &[&str],
    ) -> Result<shim::Capabilities, Invalid> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
        let asked = cri::Capability {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            add_ambient_capabilities: owned(ambient),
        };
        let context = cri::LinuxContainerSecurityContext {
            capabilities: Some(asked),
            ..Default::default()
        };
        plan(&Host::for_test(), Security(Some(&context)))
    }

    #[track_caller]
    fn check(add: &[&str], drop: &[&str], want: u64) {
        let got = planned(add, drop, &[]).unwrap();
        assert_eq!(names(got.bounding), names(want));
        assert_eq!([got.effective, got.permitted], [want, want]);
        assert_eq!([got.inheritable, got.ambient], [0, 0]);
    }

    #[test]
    fn the_default_is_dockers_fourteen() {
        assert_eq!(DEFAULT, 0xa804_25fb);
        assert_eq!(
            plan(&Host::for_test(), Security(None)).unwrap().bounding,
            DEFAULT
        );
    }

    #[test]
    fn names_are_added_and_dropped_in_any_spelling() {
        check(&[], &[], DEFAULT);
        check(&["NET_ADMIN"], &[], DEFAULT | mask(&["NET_ADMIN"]));
        check(
            &["cap_net_admin", "Sys_Time"],
            &["CAP_CHOWN"],
            DEFAULT & !1 | mask(&["NET_ADMIN", "SYS_TIME"]),
        );
        check(&["ALL"], &[], ALL);
        check(&["all"], &["CHOWN"], ALL & !1);
        check(&[], &["ALL"], 0);
        check(&["NET_BIND_SERVICE"], &["ALL"], mask(&["NET_BIND_SERVICE"]));
        check(&["ALL", "CHOWN"], &["ALL"], 1);
        check(&["CHOWN"], &["CHOWN"], DEFAULT & !1);
    }

    #[test]
    fn an_unknown_name_is_told_by_its_place() {
        let error = planned(&["CHOWN", "NET_ADMINS"], &[], &[]).unwrap_err();
        assert_eq!(
            error.field,
            "config.linux.security_context.capabilities.add_capabilities[1]"
        );
        assert_eq!(error.reason, "\"NET_ADMINS\" is not a capability");
        assert!(
            planned(&[], &[""], &[])
                .unwrap_err()
                .field
                .ends_with("drop_capabilities[0]")
        );
        assert!(
            planned(&[], &[], &["X"])
                .unwrap_err()
                .field
                .ends_with("add_ambient_capabilities[0]")
        );
    }

    #[test]
    fn ambient_ones_are_in_all_five_sets() {
        let got = planned(&[], &["ALL"], &["NET_BIND_SERVICE"]).unwrap();
        let bind = mask(&["NET_BIND_SERVICE"]);
        assert_eq!(
            [
                got.bounding,
                got.effective,
                got.permitted,
                got.inheritable,
                got.ambient
            ],
            [bind; 5]
        );
    }

    #[test]
    fn nothing_goes_beyond_what_the_daemon_has_itself() {
        let host = Host {
            permitted_caps: ALL & !mask(&["SYS_RESOURCE"]),
            ..Host::for_test()
        };
        let context = cri::LinuxContainerSecurityContext {
            privileged: true,
            ..Default::default()
        };
        let got = plan(&host, Security(Some(&context))).unwrap();
        assert_eq!(got.bounding, host.permitted_caps);
    }

    #[test]
    fn a_privileged_container_has_all_whatever_it_drops() {
        let asked = cri::Capability {
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        };
        let context = cri::LinuxContainerSecurityContext {
            privileged: true,
            capabilities: Some(asked),
            ..Default::default()
        };
        assert_eq!(
            plan(&Host::for_test(), Security(Some(&context)))
                .unwrap()
                .bounding,
            ALL
        );
    }

    #[test]
    fn a_kernel_that_knows_fewer_gets_fewer() {
        let host = Host {
            last_cap: 37,
            ..Host::for_test()
        };
        let context = cri::LinuxContainerSecurityContext {
            privileged: true,
            ..Default::default()
        };
        assert_eq!(
            plan(&host, Security(Some(&context))).unwrap().bounding,
            (1 << 38) - 1
        );
    }
}
