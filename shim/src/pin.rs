//! The namespaces of a pod with a user namespace. A thread cannot make one, so a child of this process does: it is born
//! in it, makes the others, which belong to it, and they are pinned. Neither process stays.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use corten_proto::shim::{Pin, Sysctl};
use corten_sys::{
    ns, prctl,
    process::{Child, CloneFlags},
};
use nix::{
    sched::unshare,
    unistd::{Gid, Uid, setfsgid, setfsuid, sethostname, setresgid, setresuid},
};
use prost::Message;

use crate::userns;

/// Longest message, bytes, as of a request that names sysctls.
const MAX_MESSAGE: u64 = 16 << 20;

/// Reads what is wanted from descriptor 0, and pins it.
pub(crate) fn run() -> io::Result<()> {
    prctl::set_name(c"corten-pin")?;
    let mut bytes = Vec::new();
    io::stdin().take(MAX_MESSAGE).read_to_end(&mut bytes)?;
    let wanted = Pin::decode(&*bytes).map_err(io::Error::other)?;
    let ids = wanted.user_namespace.clone().unwrap_or_default();
    userns::with(&ids, || make(&wanted), |child| pin(&wanted, child))
}

/// Network, IPC and UTS, with their kind and their name in /proc.
fn kinds(wanted: &Pin) -> impl Iterator<Item = (&str, CloneFlags, &'static str)> {
    let all = [
        (&*wanted.network, CloneFlags::CLONE_NEWNET, "net"),
        (&*wanted.ipc, CloneFlags::CLONE_NEWIPC, "ipc"),
        (&*wanted.uts, CloneFlags::CLONE_NEWUTS, "uts"),
    ];
    all.into_iter().filter(|(path, ..)| !path.is_empty())
}

/// The child's part, in the user namespace.
fn make(wanted: &Pin) -> io::Result<()> {
    // Who makes an IPC namespace owns the directory of its message queues.
    setfsgid(Gid::from_raw(0));
    setfsuid(Uid::from_raw(0));
    let flags = kinds(wanted).fold(CloneFlags::empty(), |flags, (_, flag, _)| flags | flag);
    unshare(flags).map_err(|errno| told(&format!("unshare {flags:?}"), errno.into()))?;
    if !wanted.uts.is_empty() && !wanted.hostname.is_empty() {
        let doing = || format!("set hostname {:?}", wanted.hostname);
        sethostname(&wanted.hostname).map_err(|errno| told(&doing(), errno.into()))?;
    }
    set_sysctls(&wanted.sysctls)
}

/// The sysctls of an IPC namespace could be written by the host's root alone before Linux 6.12, and by the user
/// namespace's root alone since: the other ids are still the former's, and become the latter's.
fn set_sysctls(sysctls: &[Sysctl]) -> io::Result<()> {
    let set = |sysctl: &Sysctl| fs::write(Path::new("/proc/sys").join(&sysctl.path), &sysctl.value);
    let mut refused = Vec::new();
    for sysctl in sysctls {
        match set(sysctl) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused.push(sysctl),
            result => result.map_err(|error| told(&naming(sysctl), error))?,
        }
    }
    if !refused.is_empty() {
        let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
        prctl::set_undumpable()?;
    }
    let mut refused = refused.into_iter();
    refused.try_for_each(|sysctl| set(sysctl).map_err(|error| told(&naming(sysctl), error)))
}

fn naming(Sysctl { path, value }: &Sysctl) -> String {
    format!("set sysctl to {value:?} in /proc/sys/{path}")
}

/// The parent's part.
fn pin(wanted: &Pin, child: &Child) -> io::Result<()> {
    let user = (&*wanted.user, CloneFlags::CLONE_NEWUSER, "user");
    for (path, _, name) in kinds(wanted).chain([user]) {
        let source = format!("/proc/{}/ns/{name}", child.pid);
        ns::pin_file(Path::new(&source), Path::new(path))
            .map_err(|error| told(&format!("pin a namespace on {path}"), error))?;
    }
    Ok(())
}

fn told(doing: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing}: {error}"))
}
