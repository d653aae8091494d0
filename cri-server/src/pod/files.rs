//! A pod's files below `<state>/pods/<id>`, which its containers get as bind mounts: shm, and hostname, resolv.conf and hosts
//! in `etc`.
//!
//! Containers may write to them, and on a file system they may also ask for other files by their numbers
//! (open_by_handle_at(2)) and, with CAP_SYS_ADMIN, change its size. So none lies on one with anything of another pod, nor of
//! the daemon.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use corten_proto::record::{self, resource::Kind};
use corten_sys::private;
use nix::mount::{MsFlags, mount};

use super::run::Plan;
use crate::{
    error::{At, Result},
    selinux, spec,
};

/// As Docker and containerd have it; it belongs to the pod's root.
const SHM: &str = "mode=1777,size=65536k";
/// Name of the directory of the files in /etc, in a pod's state directory.
pub(crate) const ETC_NAME: &str = "etc";
/// Room for the files in /etc, bytes, unless the host's own are larger.
const ETC: usize = 1 << 20;
/// Room for those files, their directory, and their extended attributes, inodes.
const ETC_INODES: usize = 16;
/// Mount flags of what holds neither programs nor devices.
const DATA: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);
/// The file behind resolved's stub, which no other network namespace can reach.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
const STUB: &str = "127.0.0.53";

/// Makes the directory and everything in it that needs no address.
pub(crate) fn create(plan: &Plan) -> Result<()> {
    let dir = &plan.state_dir;
    let label = spec::pod_file_label(&plan.selinux_level);
    private::create_dir(dir).at("create", dir)?;
    let pins = dir.join("ns");
    private::create_dir(&pins).at("create", &pins)?;
    if let Some(shm) = &plan.paths.shm {
        private::create_dir(shm).at("create", shm)?;
        let context = label.as_ref().map(|label| format!(",context=\"{label}\""));
        let (uid, gid) = plan.root();
        let options = format!("{SHM},uid={uid},gid={gid}{}", context.unwrap_or_default());
        mount(Some("shm"), shm, Some("tmpfs"), DATA, Some(&*options))
            .at("mount a tmpfs on", shm)?;
    }
    let resolv_conf = match spec::resolv_conf(plan.config.dns_config.as_ref()) {
        Some(text) => text,
        None => host_resolv_conf()?,
    };
    mount_etc(plan, resolv_conf.len())?;
    write(plan, "hostname", &format!("{}\n", plan.hostname))?;
    write(plan, "resolv.conf", &resolv_conf)
}

/// A file system for the files in /etc, with room for what the host's are, and as much again.
fn mount_etc(plan: &Plan, resolv_conf: usize) -> Result<()> {
    let etc = &plan.paths.etc;
    private::create_dir(etc).at("create", etc)?;
    let hosts = match plan.paths.net {
        Some(_) => 0,
        None => host_hosts().len(),
    };
    let size = ETC.max(2 * (resolv_conf + hosts)).next_multiple_of(4096);
    let options = format!("mode=700,size={}k,nr_inodes={ETC_INODES}", size / 1024);
    mount(Some("corten"), etc, Some("tmpfs"), DATA, Some(&*options)).at("mount a tmpfs on", etc)
}

/// Directory of a pod's files in /etc. An earlier daemon had them in the pod's state directory itself.
pub(crate) fn etc(pod: &record::Pod, state_dir: &Path) -> PathBuf {
    let etc = state_dir.join(ETC_NAME);
    let is_etc = |resource: &record::Resource| match &resource.kind {
        Some(Kind::Mount(path)) => Path::new(path) == etc,
        _ => false,
    };
    match pod.resources.iter().any(is_etc) {
        true => etc,
        false => state_dir.to_owned(),
    }
}

/// Writes the hosts file for containers that bring none.
pub(crate) fn write_hosts(plan: &Plan, ips: &[String]) -> Result<()> {
    if plan.paths.net.is_none() {
        return write(plan, "hosts", &host_hosts());
    }
    write(plan, "hosts", &spec::hosts(&plan.hostname, ips))
}

/// Takes the categories off the files in /etc, for a container of another SELinux level than its pod's. It could not read them
/// otherwise; that other pods cannot, their mount namespaces see to.
pub(crate) fn share(etc: &Path) -> Result<()> {
    let label = spec::shared_file_label();
    ["hostname", "hosts", "resolv.conf"]
        .iter()
        .try_for_each(|name| selinux::set_label(&etc.join(name), &label))
}

/// The pod's root may write to it.
fn write(plan: &Plan, name: &str, text: &str) -> Result<()> {
    let path = plan.paths.etc.join(name);
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

fn host_hosts() -> String {
    fs::read_to_string("/etc/hosts").unwrap_or_default()
}

/// A host without the file gives its pods an empty one.
fn host_resolv_conf() -> Result<String> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if text.contains(STUB) && Path::new(RESOLVED).exists() {
        return fs::read_to_string(RESOLVED).at("read", Path::new(RESOLVED));
    }
    Ok(text)
}
