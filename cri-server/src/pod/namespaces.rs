//! A pod's network, IPC and UTS namespaces: made and pinned by a thread that ends afterwards, so that no process and no
//! thread of the pool stays in them. With a user namespace, which no thread can make, a helper does it, and ends as well.

use std::{
    fs,
    path::{Path, PathBuf},
};

use corten_proto::shim::{Pin, Sysctl};
use corten_sys::{ns, thread};
use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::sethostname,
};

use super::run::Plan;
use crate::{
    context::Context,
    error::{At, Error, Result},
    spec,
};

/// Makes the directories of the pins and, without a user namespace, the namespaces that `plan` pins, with the sysctls
/// that do not wait for the network.
pub(crate) fn create(plan: &Plan) -> Result<()> {
    let paths = &plan.paths;
    if let Some(dir) = paths.net.as_deref().and_then(Path::parent) {
        fs::create_dir_all(dir).at("create", dir)?;
    }
    if paths.user.is_some() {
        return Ok(());
    }
    let wanted = [
        (&paths.net, CloneFlags::CLONE_NEWNET, "net"),
        (&paths.ipc, CloneFlags::CLONE_NEWIPC, "ipc"),
        (&paths.uts, CloneFlags::CLONE_NEWUTS, "uts"),
    ];
    let pins: Vec<_> = wanted
        .into_iter()
        .filter_map(|(path, flag, name)| Some((path.as_deref()?, flag, name)))
        .collect();
    if pins.is_empty() {
        return Ok(());
    }
    let hostname = paths.uts.is_some().then_some(&plan.hostname);
    let sysctls = &plan.sysctls.early;
    let make = move || {
        let flags = pins
            .iter()
            .fold(CloneFlags::empty(), |flags, (_, flag, _)| flags | *flag);
        unshare(flags).map_err(|errno| Error::Io {
            doing: format!("unshare {flags:?}"),
            source: errno.into(),
        })?;
        if let Some(name) = hostname.filter(|name| !name.is_empty()) {
            sethostname(name).map_err(|errno| Error::Io {
                doing: format!("set hostname {name:?}"),
                source: errno.into(),
            })?;
        }
        set_sysctls(sysctls).map_err(|error| refused(plan, error))?;
        pins.iter()
            .try_for_each(|(path, _, name)| ns::pin(name, path).at("pin a namespace on", path))
    };
    thread::disposable("pod-namespaces", make).map_err(|source| Error::Io {
        doing: "start a thread for a pod's namespaces".into(),
        source,
    })?
}

/// Sets the sysctls that wait for the pod's network, on a thread in its namespace: of which user namespace that one is makes no
/// difference to these.
pub(crate) fn set_late_sysctls(plan: &Plan) -> Result<()> {
    let sysctls = &plan.sysctls.late;
    let Some(pin) = plan.paths.net.as_deref().filter(|_| !sysctls.is_empty()) else {
        return Ok(());
    };
    let namespace = fs::File::open(pin).at("open", pin)?;
    let set = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).at("enter network namespace", pin)?;
        set_sysctls(sysctls).map_err(|error| refused(plan, error))
    };
    thread::disposable("pod-sysctls", set).map_err(|source| Error::Io {
        doing: "start a thread for a pod's sysctls".into(),
        source,
    })?
}

/// Writes sysctls in the namespaces of the calling thread.
fn set_sysctls(sysctls: &[(PathBuf, String)]) -> Result<()> {
    sysctls.iter().try_for_each(|(path, value)| {
        let path = Path::new("/proc/sys").join(path);
        fs::write(&path, value).at(&format!("set sysctl to {value:?} in"), &path)
    })
}

/// Makes the pod's user namespace, pinned on `user`, and in it those that `plan` pins, with their sysctls.
pub(crate) async fn create_in_user_namespace(cx: &Context, plan: &Plan, user: &Path) -> Result<()> {
    let text = |path: &Path| path.display().to_string();
    let or_none = |path: &Option<PathBuf>| path.as_deref().map(text).unwrap_or_default();
    let sysctl = |(path, value): &(PathBuf, String)| Sysctl {
        path: text(path),
        value: value.clone(),
    };
    let wanted = Pin {
        user_namespace: plan.ids.clone(),
        user: text(user),
        network: or_none(&plan.paths.net),
        ipc: or_none(&plan.paths.ipc),
        uts: or_none(&plan.paths.uts),
        hostname: plan.hostname.clone(),
        sysctls: plan.sysctls.early.iter().map(sysctl).collect(),
    };
    let made = cx.launcher.pin(&wanted).await;
    made.map_err(|source| {
        let doing = "make the pod's user namespace".into();
        refused(plan, Error::Shim { doing, source })
    })
}

/// A sysctl that the kernel does not have, or whose value it does not take, is the request's. The error names its file.
fn refused(plan: &Plan, error: Error) -> Error {
    let text = error.chain();
    let mut all = plan.sysctls.early.iter().chain(&plan.sysctls.late);
    let asked = all.find_map(|(path, _)| {
        let named = format!("/proc/sys/{}: ", path.display());
        let field = spec::sysctl_field(&plan.config, path)?;
        text.contains(&named).then_some(field)
    });
    match asked {
        Some(field) => Error::invalid(field, text),
        None => error,
    }
}
