//! From a plan to the config.json of an external runtime (OCI runtime-spec v1.0.2, config.md, config-linux.md).
//!
//! A lowering takes every message apart by name: a field that is added to the plan does not compile here before somebody
//! has said what it means to an external runtime. Limits are not in it: the shim sets them on the cgroup, with either executor
//! alike.

mod mounts;

use corten_proto::shim;
use serde_json::{Value, json};
use shim::namespace::From;

use super::{Container, Invalid, capabilities, security_profile};

/// Older runtimes refuse a higher one, and nothing of a later one is used.
const VERSION: &str = "1.0.2";
/// RLIMIT_* by number, include/uapi/asm-generic/resource.h.
const RLIMITS: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// The seccomp object for a planned container; none is no filter.
pub(crate) fn seccomp(container: &Container<'_>, plan: &shim::Plan) -> Result<Value, Invalid> {
    let process = plan.process.as_ref();
    let sets = process.and_then(|process| process.capabilities);
    let bounding = sets.unwrap_or_default().bounding;
    Ok(security_profile::seccomp_object(container, bounding)?.unwrap_or_default())
}

/// The bundle's configuration for `plan`, with what the shim has found. `seccomp` is what [`seccomp`] gave.
pub(crate) fn config(
    plan: shim::Plan,
    prepared: &shim::Prepared,
    seccomp: Value,
) -> Result<Value, Invalid> {
    let shim::Plan {
        container_id: _,
        pod_id: _,
        rootfs,
        mounts,
        // In `prepared`, as nodes.
        devices: _,
        namespaces,
        cgroup,
        process,
        // The shim's.
        log: _,
        masked_paths,
        readonly_paths,
        state_dir,
        // A pod with one is refused (RunPodSandbox).
        user_namespace: _,
        mount_label,
    } = plan;
    let shim::Cgroup {
        path,
        resources: _,
        all_devices,
        // The shim makes the cgroup.
        delegated: _,
    } = cgroup.unwrap_or_default();
    let readonly = rootfs.unwrap_or_default().readonly;
    let (mounts, propagation) = mounts::lower(mounts, prepared, &state_dir)?;
    let mut linux = json!({
        "cgroupsPath": path,
        "namespaces": self::namespaces(namespaces.unwrap_or_default()),
        "devices": prepared.devices.iter().map(device).collect::<Vec<_>>(),
        "resources": { "devices": rules(&prepared.devices, all_devices) },
        "maskedPaths": masked_paths,
        "readonlyPaths": readonly_paths,
    });
    if !seccomp.is_null() {
        linux["seccomp"] = seccomp;
    }
    if !mount_label.is_empty() {
        linux["mountLabel"] = json!(mount_label);
    }
    if let Some(propagation) = propagation {
        linux["rootfsPropagation"] = json!(propagation);
    }
    Ok(json!({
        "ociVersion": VERSION,
        "root": { "path": corten_proto::layout::BUNDLE_ROOT, "readonly": readonly },
        "process": self::process(process.unwrap_or_default(), prepared),
        "mounts": mounts,
        "linux": linux,
    }))
}

fn process(process: shim::Process, prepared: &shim::Prepared) -> Value {
    let shim::Process {
        args,
        env,
        cwd,
        terminal,
        // The shim's.
        stdin: _,
        stdin_once: _,
        // As `prepared` has it.
        user: _,
        capabilities,
        no_new_privileges,
        // Compiled; the runtime gets the profile.
        seccomp_filter: _,
        seccomp_flags: _,
        oom_score_adj: _,
        rlimits: _,
        apparmor_profile,
        selinux_label,
    } = process;
    let identity = prepared.identity.clone().unwrap_or_default();
    let mut env = texts(&env);
    // An empty one is none, as for runc; other runtimes would keep it.
    env.retain(|variable| variable != "HOME=");
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", prepared.home));
    }
    let mut lowered = json!({
        "terminal": terminal,
        "user": { "uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups },
        "args": texts(&args),
        "env": env,
        "cwd": if cwd.is_empty() { "/" } else { &cwd },
        "capabilities": self::capabilities(capabilities.unwrap_or_default()),
        "noNewPrivileges": no_new_privileges,
        "oomScoreAdj": prepared.oom_score_adj,
        "rlimits": prepared.rlimits.iter().filter_map(rlimit).collect::<Vec<_>>(),
    });
    if !apparmor_profile.is_empty() {
        lowered["apparmorProfile"] = json!(apparmor_profile);
    }
    if !selinux_label.is_empty() {
        lowered["selinuxLabel"] = json!(selinux_label);
    }
    lowered
}

fn texts(list: &[Vec<u8>]) -> Vec<String> {
    // They were strings in the request.
    list.iter()
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect()
}

fn capabilities(sets: shim::Capabilities) -> Value {
    let shim::Capabilities {
        bounding,
        effective,
        permitted,
        inheritable,
        ambient,
    } = sets;
    json!({
        "bounding": capabilities::names(bounding),
        "effective": capabilities::names(effective),
        "permitted": capabilities::names(permitted),
        "inheritable": capabilities::names(inheritable),
        "ambient": capabilities::names(ambient),
    })
}

fn rlimit(limit: &shim::Rlimit) -> Option<Value> {
    let name = RLIMITS.get(usize::try_from(limit.resource).ok()?)?;
    Some(json!({ "type": format!("RLIMIT_{name}"), "soft": limit.soft, "hard": limit.hard }))
}

fn namespaces(namespaces: shim::Namespaces) -> Vec<Value> {
    let shim::Namespaces {
        network,
        ipc,
        uts,
        pid,
        cgroup,
        user: _,
    } = namespaces;
    let all = [
        ("network", network),
        ("ipc", ipc),
        ("uts", uts),
        ("pid", pid),
        ("cgroup", cgroup),
    ];
    let lower = |(kind, namespace): (&str, Option<shim::Namespace>)| match namespace?.from? {
        From::Host(_) => None,
        From::New(_) => Some(json!({ "type": kind })),
        From::Join(path) => Some(json!({ "type": kind, "path": path })),
    };
    let mount = json!({ "type": "mount" });
    all.into_iter().filter_map(lower).chain([mount]).collect()
}

fn device(node: &shim::DeviceNode) -> Value {
    json!({
        "path": node.path,
        "type": node.r#type,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    })
}

/// Runtimes add the devices that every container has.
fn rules(nodes: &[shim::DeviceNode], all: bool) -> Vec<Value> {
    if all {
        return vec![json!({ "allow": true, "access": "rwm" })];
    }
    let rule = |node: &shim::DeviceNode| json!({ "allow": true, "type": node.r#type, "major": node.major, "minor": node.minor, "access": node.permissions });
    let devices = nodes.iter().filter(|node| node.r#type != "p");
    let none = json!({ "allow": false, "access": "rwm" });
    std::iter::once(none).chain(devices.map(rule)).collect()
}

#[cfg(test)]
mod tests;
