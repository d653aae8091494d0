//! The cgroup driver `systemd`: one scope a pod, asked for once, and all below it is ours.
//!
//! ```text
//!   kubepods.slice/.../kubepods-burstable-podX.slice/   systemd's, the kubelet has it made
//!     corten-<pod id>.scope/                            systemd's, delegated
//!       shim/                                           the pod's shims, the first of which the scope began with
//!       <container id>/                                 made by its shim, as with cgroupfs
//! ```
//!
//! systemd refuses a scope without a process and drops an empty one. A shim stays until its container's end is recorded,
//! so the counters are there when they are read; a pod whose scope is gone gets a new one with its next container.

mod bus;
mod wire;

use std::{io, path::Path, sync::Arc};

use corten_proto::record::Scope;
use corten_sys::cgroup::{Cgroup, Hierarchies};

use crate::{
    blocking::blocking,
    config::CgroupDriver,
    error::{At, Error, Result},
};

/// Of the shims of a pod: a cgroup that hands controllers down has no processes of its own (cgroup v2, "No Internal
/// Process Constraint").
const SHIMS: &str = "shim";

/// That the driver can work here.
///
/// # Errors
/// Without systemd, or with a cgroup v1 hierarchy, whose delegation is not safe (systemd.resource-control(5), `Delegate=`).
pub(crate) fn check(driver: CgroupDriver, hierarchies: &Hierarchies) -> Result<()> {
    if driver != CgroupDriver::Systemd {
        return Ok(());
    }
    let failed = |reason: String| Error::Io {
        doing: "use the cgroup driver \"systemd\"".into(),
        source: io::Error::other(reason),
    };
    if !hierarchies.is_unified() {
        let reason = "it needs a host with cgroup v2 alone: set cgroup_driver to \"cgroupfs\"";
        return Err(failed(reason.into()));
    }
    if !Path::new(bus::SOCKET).exists() {
        let socket = bus::SOCKET;
        return Err(failed(format!(
            "systemd does not run here: {socket} is missing"
        )));
    }
    Ok(())
}

/// Puts process `pid` into the pod's scope, which is started with it where it is not there. Not for two processes of one
/// pod at once.
pub(crate) async fn place(hierarchies: &Arc<Hierarchies>, scope: &Scope, pid: u32) -> Result<()> {
    if join(hierarchies, scope, pid, false).await? {
        return Ok(());
    }
    let slice = Path::new(&scope.cgroup).parent().and_then(Path::file_name);
    let asked = bus::Scope {
        unit: &scope.unit,
        slice: slice.and_then(|name| name.to_str()).unwrap_or("-.slice"),
        description: &scope.description,
        pid,
    };
    let mut started = bus::start_scope(asked).await;
    if started.as_ref().is_err_and(bus::Error::is_exists) {
        // Empty, and about to go.
        started = match bus::stop_unit(&scope.unit).await {
            Ok(()) => bus::start_scope(asked).await,
            Err(error) => Err(error),
        };
    }
    started.map_err(|error| failed("start", &scope.unit, error))?;
    join(hierarchies, scope, pid, true).await?;
    Ok(())
}

/// Puts the process beside the shims that are there, or where `first` makes their cgroup. False: the scope is gone, or
/// systemd is about to drop it.
async fn join(
    hierarchies: &Arc<Hierarchies>,
    scope: &Scope,
    pid: u32,
    first: bool,
) -> Result<bool> {
    let hierarchies = Arc::clone(hierarchies);
    let path = format!("{}/{SHIMS}", scope.cgroup);
    blocking(move || {
        let shims = Cgroup::new(&hierarchies, &path);
        if first {
            shims.create_below().at("make cgroup", Path::new(&path))?;
        } else if shims.procs().unwrap_or_default().is_empty() {
            return Ok(false);
        }
        match shims.attach(pid) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !first => Ok(false),
            Err(error) => Err(error).at("put the shim into cgroup", Path::new(&path)),
        }
    })
    .await
}

/// Ends everything in a pod's scope and removes its cgroup. systemd forgets a scope that is empty; it need not be asked,
/// and need not be alive.
pub(crate) fn remove(hierarchies: &Hierarchies, scope: &Scope) -> Result<()> {
    let path = Path::new(&scope.cgroup);
    let cgroup = Cgroup::new(hierarchies, &scope.cgroup);
    if !cgroup.exists() {
        return Ok(());
    }
    cgroup.kill().at("kill everything in cgroup", path)?;
    cgroup.remove().at("remove cgroup", path)
}

/// Stops a slice of ours, which systemd would keep.
pub(crate) async fn stop_slice(slice: &str) -> Result<()> {
    let stopped = bus::stop_unit(slice).await;
    stopped.map_err(|error| failed("stop", slice, error))
}

fn failed(doing: &str, unit: &str, error: bus::Error) -> Error {
    Error::Io {
        doing: format!("{doing} {unit} by systemd"),
        source: io::Error::other(error),
    }
}
