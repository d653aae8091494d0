//! The pod's sysctls: names that a namespace of the pod's own holds, and nothing else.

use std::path::{Path, PathBuf};

use corten_proto::{cri, shim};

use super::{Invalid, namespaces, path, user_namespace};

const PING_GROUPS: &str = "net/ipv4/ping_group_range";

/// Path below `/proc/sys`, and what is written there.
type Setting = (PathBuf, String);

/// What to write below `/proc/sys`, from inside the pod's namespaces.
#[derive(Debug, Default)]
pub(crate) struct Sysctls {
    /// Written as soon as there are namespaces.
    pub(crate) early: Vec<Setting>,
    /// Written when the pod has its network: interfaces have sysctls once they are there, and `conf/default` is for those
    /// to come, not for the network's own. Other runtimes set all then.
    pub(crate) late: Vec<Setting>,
}

/// The pod's sysctls.
///
/// Names come in both ways of sysctl(8): with dots, or with slashes, where a dot is a dot
/// (`net/ipv4/conf/eth0.1/...`).
pub(crate) fn sysctls(config: &cri::PodSandboxConfig) -> Result<Sysctls, Invalid> {
    let modes = Modes::of(config)?;
    let users = user_namespace::of_pod(config)?;
    let mut sysctls = Sysctls::default();
    if modes.own_network {
        sysctls.early = unprivileged(users.as_ref());
    }
    let asked = config.linux.iter().flat_map(|linux| &linux.sysctls);
    for (name, value) in asked {
        let field = format!("config.linux.sysctls[{name:?}]");
        let key = key(name, &field)?;
        check(&key, modes, &field)?;
        path::one_line(value, &field)?;
        // The kernel reads one page at most.
        if value.len() >= 4096 {
            return Err(Invalid::new(field, "the value is longer than a page"));
        }
        // The kernel takes the groups for those of the writer's user namespace (ping_group_range, icmp(7)).
        let is_early = !key.starts_with("net/") || users.is_some() && key == PING_GROUPS;
        let path = PathBuf::from(key);
        sysctls.early.retain(|(set, _)| *set != path);
        let settings = if is_early {
            &mut sysctls.early
        } else {
            &mut sysctls.late
        };
        settings.push((path, value.clone()));
    }
    // `all` and `net.ipv4.ip_forward` change every interface: what names one comes after them.
    sysctls
        .late
        .sort_by_key(|(path, _)| is_of_an_interface(path));
    Ok(sysctls)
}

/// Whether a path such as `net/ipv4/conf/eth0/rp_filter` is of one interface.
fn is_of_an_interface(path: &Path) -> bool {
    let parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
    match parts.as_slice() {
        ["net", _, "conf" | "neigh", name, _, ..] => !matches!(*name, "all" | "default"),
        _ => false,
    }
}

/// The field of the request that set the sysctl with this path. `None` for one of ours.
pub(crate) fn field(config: &cri::PodSandboxConfig, path: &Path) -> Option<String> {
    let mut asked = config.linux.iter().flat_map(|linux| linux.sysctls.keys());
    let name = asked.find(|name| key(name, "").is_ok_and(|key| path == Path::new(&key)))?;
    Some(format!("config.linux.sysctls[{name:?}]"))
}

/// For a pod with a network of its own: any user may bind low ports and ping without a capability,
/// as under containerd 2. No range may end beyond what a user namespace maps.
fn unprivileged(user_namespace: Option<&shim::UserNamespace>) -> Vec<Setting> {
    const LAST: u32 = i32::MAX.cast_unsigned();
    let mapped = user_namespace.and_then(|ids| ids.gids.iter().map(|map| map.length - 1).max());
    let last = mapped.unwrap_or(LAST).min(LAST);
    let settings = [
        ("net/ipv4/ip_unprivileged_port_start", "0".into()),
        (PING_GROUPS, format!("0 {last}")),
    ];
    settings.map(|(path, value)| (path.into(), value)).into()
}

#[derive(Clone, Copy)]
struct Modes {
    own_network: bool,
    own_ipc: bool,
}

impl Modes {
    fn of(config: &cri::PodSandboxConfig) -> Result<Self, Invalid> {
        let options = namespaces::of_pod(config);
        let field = |name: &str| format!("{}.{name}", namespaces::POD_FIELD);
        let node = cri::NamespaceMode::Node;
        Ok(Self {
            own_network: namespaces::mode(options.network, &field("network"))? != node,
            own_ipc: namespaces::mode(options.ipc, &field("ipc"))? != node,
        })
    }
}

/// The name as a path below `/proc/sys`. The first separator says which of the two ways it is.
fn key(name: &str, field: &str) -> Result<String, Invalid> {
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let dots = name
        .find(['.', '/'])
        .is_some_and(|at| name[at..].starts_with('.'));
    let key: String = if dots {
        name.chars().map(swap).collect()
    } else {
        name.into()
    };
    let bad = |part: &str| {
        let plain = part.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':' | b'@')
        });
        part.is_empty() || part == "." || part == ".." || !plain
    };
    if key.split('/').any(bad) {
        return Err(Invalid::new(field, "not the name of a sysctl"));
    }
    Ok(key)
}

/// Rule: ipc_namespaces(7) and network_namespaces(7) list what they hold; all else would change the
/// host.
fn check(key: &str, modes: Modes, field: &str) -> Result<(), Invalid> {
    let parts: Vec<&str> = key.split('/').collect();
    let (holder, own) = match parts.as_slice() {
        ["kernel", name]
            if name.starts_with("shm") || name.starts_with("msg") || *name == "sem" =>
        {
            ("IPC", modes.own_ipc)
        }
        ["fs", "mqueue", _] => ("IPC", modes.own_ipc),
        ["net", _, ..] => ("network", modes.own_network),
        ["kernel", "hostname"] => {
            return Err(Invalid::new(field, "set the pod's hostname instead"));
        }
        _ => {
            return Err(Invalid::new(
                field,
                "not a sysctl that a pod can have of its own; it would change the host",
            ));
        }
    };
    if own {
        Ok(())
    } else {
        Err(Invalid::new(
            field,
            format!("the pod uses the host's {holder} namespace"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(network: i32, ipc: i32, asked: &[(&str, &str)]) -> Result<Vec<String>, Invalid> {
        let Sysctls { early, late } = sysctls(&config(network, ipc, asked))?;
        Ok(told(early.iter().chain(&late)))
    }

    fn told<'a>(settings: impl IntoIterator<Item = &'a Setting>) -> Vec<String> {
        settings
            .into_iter()
            .map(|(path, value)| format!("{}={value}", path.display()))
            .collect()
    }

    fn config(network: i32, ipc: i32, asked: &[(&str, &str)]) -> cri::PodSandboxConfig {
        let namespace_options = Some(cri::NamespaceOption {
            network,
            ipc,
            ..Default::default()
        });
        let security_context = Some(cri::LinuxSandboxSecurityContext {
            namespace_options,
            ..Default::default()
        });
        let sysctls = asked
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let linux = cri::LinuxPodSandboxConfig {
            security_context,
            sysctls,
            ..Default::default()
        };
        cri::PodSandboxConfig {
            linux: Some(linux),
            ..Default::default()
        }
    }

    const PORTS: &str = "net/ipv4/ip_unprivileged_port_start=0";
    const PING: &str = "net/ipv4/ping_group_range=0 2147483647";
    const NODE: i32 = 2;

    #[test]
    fn namespaced_names_become_paths() {
        for (name, want) in [
            ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced=1"),
            ("kernel/shmmax", "kernel/shmmax=1"),
            ("kernel.msgmax", "kernel/msgmax=1"),
            ("kernel.sem", "kernel/sem=1"),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max=1"),
            ("net.core.somaxconn", "net/core/somaxconn=1"),
            (
                "net.ipv4.conf.eth0/1.rp_filter",
                "net/ipv4/conf/eth0.1/rp_filter=1",
            ),
            (
                "net/ipv4/conf/eth0.1/rp_filter",
                "net/ipv4/conf/eth0.1/rp_filter=1",
            ),
        ] {
            assert_eq!(
                planned(0, 0, &[(name, "1")]).unwrap(),
                [PORTS, PING, want],
                "{name}"
            );
        }
        assert_eq!(
            planned(0, 0, &[("kernel.sem", "250 32000 32 128")]).unwrap()[2],
            "kernel/sem=250 32000 32 128"
        );
    }

    #[test]
    fn a_path_leads_to_its_field() {
        let config = cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                sysctls: [("net.ipv4/x".into(), "1".into())].into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let field = |path: &str| super::field(&config, Path::new(path));
        assert_eq!(
            field("net/ipv4.x").as_deref(),
            Some("config.linux.sysctls[\"net.ipv4/x\"]")
        );
        assert_eq!(field("net/ipv4/x"), None);
    }

    #[test]
    fn the_networks_come_after_the_network_and_an_interfaces_last() {
        let asked = [
            ("kernel.sem", "1"),
            ("net.core.somaxconn", "1"),
            ("net.ipv4.conf.a0.forwarding", "1"),
            ("net.ipv4.conf.all.forwarding", "1"),
            ("net.ipv4.conf.default.rp_filter", "1"),
            ("net/ipv6/neigh/eth0.1/proxy_qlen", "1"),
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.ping_group_range", "0 1"),
        ];
        let mut config = config(0, 0, &asked);
        let Sysctls { early, late } = sysctls(&config).unwrap();
        assert_eq!(told(&early), [PORTS, "kernel/sem=1"]);
        let want = [
            "net/core/somaxconn=1",
            "net/ipv4/conf/all/forwarding=1",
            "net/ipv4/conf/default/rp_filter=1",
            "net/ipv4/ip_forward=1",
            "net/ipv4/ping_group_range=0 1",
            "net/ipv4/conf/a0/forwarding=1",
            "net/ipv6/neigh/eth0.1/proxy_qlen=1",
        ];
        assert_eq!(told(&late), want);
        // Groups of a user namespace are written inside of it.
        let map = cri::IdMapping {
            host_id: 100_000,
            container_id: 0,
            length: 65_536,
        };
        let context = config.linux.as_mut().unwrap();
        let context = context.security_context.as_mut().unwrap();
        context.namespace_options.as_mut().unwrap().userns_options = Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: vec![map],
            gids: vec![map],
        });
        let Sysctls { early, late } = sysctls(&config).unwrap();
        assert_eq!(
            told(&early),
            [PORTS, "kernel/sem=1", "net/ipv4/ping_group_range=0 1"]
        );
        assert_eq!(late.len(), want.len() - 1);
    }

    #[test]
    fn names_of_the_host_are_refused_and_told() {
        for name in [
            "kernel.hostname",
            "kernel.core_pattern",
            "kernel.shm.x",
            "vm.swappiness",
            "fs.file-max",
            "net",
            "",
            "net..core",
            "net/../kernel/core_pattern",
            "net/./x",
            "/net/core/x",
            "net.core.x y",
        ] {
            let error = planned(0, 0, &[(name, "1")]).unwrap_err();
            assert_eq!(error.field, format!("config.linux.sysctls[{name:?}]"));
        }
        for value in ["a\nb", "a\0", &"9".repeat(5000)] {
            assert!(planned(0, 0, &[("net.core.x", value)]).is_err());
        }
    }

    #[test]
    fn a_namespace_of_the_host_takes_none() {
        assert_eq!(planned(NODE, 0, &[]).unwrap(), Vec::<String>::new());
        assert!(
            planned(NODE, 0, &[("net.core.somaxconn", "1")])
                .unwrap_err()
                .reason
                .contains("host's network")
        );
        assert!(
            planned(0, NODE, &[("kernel.sem", "1")])
                .unwrap_err()
                .reason
                .contains("host's IPC")
        );
        assert!(planned(0, NODE, &[("fs.mqueue.msg_max", "1")]).is_err());
        assert!(planned(NODE, 0, &[("kernel.sem", "1")]).is_ok());
    }

    #[test]
    fn the_request_overrides_the_default_in_either_spelling() {
        for name in [
            "net.ipv4.ip_unprivileged_port_start",
            "net/ipv4/ip_unprivileged_port_start",
        ] {
            let want = "net/ipv4/ip_unprivileged_port_start=1024";
            assert_eq!(planned(0, 0, &[(name, "1024")]).unwrap(), [PING, want]);
        }
    }
}
