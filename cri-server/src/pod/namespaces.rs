//! A pod's network, IPC and UTS namespaces: made and pinned by a thread that ends afterwards, so that no process and no
//! thread of the pool stays in them.

use std::{fs, path::Path};

use corten_sys::{ns, thread};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::sethostname,
};

use super::run::Plan;
use crate::error::{At, Error, Result};

/// Makes the namespaces that `plan` pins, and sets their sysctls.
pub(crate) fn create(plan: &Plan) -> Result<()> {
    let paths = &plan.paths;
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
    if let Some(dir) = paths.net.as_deref().and_then(Path::parent) {
        fs::create_dir_all(dir).at("create", dir)?;
    }
    let hostname = paths.uts.is_some().then_some(&plan.hostname);
    let sysctls = &plan.sysctls;
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
        for (path, value) in sysctls {
            let path = Path::new("/proc/sys").join(path);
            fs::write(&path, value).at(&format!("set sysctl to {value:?} in"), &path)?;
        }
        pins.iter()
            .try_for_each(|(path, _, name)| ns::pin(name, path).at("pin a namespace on", path))
    };
    thread::disposable("pod-namespaces", make).map_err(|source| Error::Io {
        doing: "start a thread for a pod's namespaces".into(),
        source,
    })?
}
