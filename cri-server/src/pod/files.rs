//! A pod's files below `<state>/pods/<id>`, which its containers get as bind mounts: shm, hostname, resolv.conf, hosts.

use std::{
    fs::{self, DirBuilder, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use nix::mount::{MsFlags, mount};

use super::run::Plan;
use crate::{
    error::{At, Result},
    selinux, spec,
};

/// As Docker and containerd have it; it belongs to the pod's root.
const SHM: &str = "mode=1777,size=65536k";
/// The file behind resolved's stub, which no other network namespace can reach.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
const STUB: &str = "127.0.0.53";

/// Makes the directory and everything in it that needs no address.
pub(crate) fn create(plan: &Plan) -> Result<()> {
    let dir = &plan.state_dir;
    let label = spec::pod_file_label(&plan.selinux_level);
    DirBuilder::new().create(dir).at("create", dir)?;
    // Whatever the daemon's umask is.
    fs::set_permissions(dir, Permissions::from_mode(0o711)).at("chmod", dir)?;
    let pins = dir.join("ns");
    fs::create_dir(&pins).at("create", &pins)?;
    if let Some(shm) = &plan.paths.shm {
        fs::create_dir(shm).at("create", shm)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let context = label.as_ref().map(|label| format!(",context=\"{label}\""));
        let (uid, gid) = plan.root();
        let options = format!("{SHM},uid={uid},gid={gid}{}", context.unwrap_or_default());
        mount(Some("shm"), shm, Some("tmpfs"), flags, Some(&*options))
            .at("mount a tmpfs on", shm)?;
    }
    write(plan, "hostname", &format!("{}\n", plan.hostname))?;
    let resolv_conf = match spec::resolv_conf(plan.config.dns_config.as_ref()) {
        Some(text) => text,
        None => host_resolv_conf()?,
    };
    write(plan, "resolv.conf", &resolv_conf)
}

/// Writes the hosts file for containers that bring none.
pub(crate) fn write_hosts(plan: &Plan, ips: &[String]) -> Result<()> {
    if plan.paths.net.is_none() {
        let host = Path::new("/etc/hosts");
        let text = fs::read_to_string(host).unwrap_or_default();
        return write(plan, "hosts", &text);
    }
    write(plan, "hosts", &spec::hosts(&plan.hostname, ips))
}

/// Takes the categories off the files in /etc, for a container of another SELinux level than its pod's. It could not read them
/// otherwise; that other pods cannot, their mount namespaces see to.
pub(crate) fn share(state_dir: &Path) -> Result<()> {
    let label = spec::shared_file_label();
    ["hostname", "hosts", "resolv.conf"]
        .iter()
        .try_for_each(|name| selinux::set_label(&state_dir.join(name), &label))
}

/// The pod's root may write to it.
fn write(plan: &Plan, name: &str, text: &str) -> Result<()> {
    let path = plan.state_dir.join(name);
    fs::write(&path, text).at("write", &path)?;
    // Every user of the pod reads it, whatever the daemon's umask is.
    fs::set_permissions(&path, Permissions::from_mode(0o644)).at("chmod", &path)?;
    if let Some(label) = spec::pod_file_label(&plan.selinux_level) {
        selinux::set_label(&path, &label)?;
    }
    match plan.root() {
        (0, 0) => Ok(()),
        (uid, gid) => chown(&path, Some(uid), Some(gid)).at("chown", &path),
    }
}

/// A host without the file gives its pods an empty one.
fn host_resolv_conf() -> Result<String> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if text.contains(STUB) && Path::new(RESOLVED).exists() {
        return fs::read_to_string(RESOLVED).at("read", Path::new(RESOLVED));
    }
    Ok(text)
}
