//! Where things lie on disk, for daemon and shim alike.
//!
//! ```text
//! <state>/                      /run/corten, a tmpfs of its own, private; gone with a reboot
//!   corten.sock                 the CRI and the admin service
//!   containers/<id>/            shim.sock, shim.log, exit; target-pids, another container's PID namespace;
//!                               with an external runtime bundle/ and its state, runtime/
//!   pods/<id>/                  etc/{resolv.conf,hostname,hosts}, shm/, each a tmpfs of its own; ns/{ipc,uts,pid,user}
//! <root>/                       /var/lib/corten, durable
//!   instance  lock              this installation's id, made once; held by the daemon that serves it
//!   images.redb  layers/  staging/  trash/  content/
//!   cni/                        what each pod was attached with
//!   operations/<id>             what an unfinished operation is about to create
//!   pods/<id>                   record of a pod sandbox
//!   containers/<id>/            record, upper/, work/, volumes/<number>/
//!   skeleton/                   the lowest layer of every container: mount points, empty
//!   empty/                      an empty directory, the lowest layer of image volumes
//!   quarantine/                 records that could not be read
//! ```

use std::path::{Path, PathBuf};

/// The daemon makes the listener before it starts the shim.
pub const SHIM_SOCKET: &str = "shim.sock";
/// What the shim writes to its descriptor 2.
pub const SHIM_LOG: &str = "shim.log";
/// A [`crate::shim::Exited`], written aside and renamed.
pub const EXIT: &str = "exit";
/// What the shim has answered to Start, which the daemon keeps for a later one.
pub const STARTED: &str = "started";

/// The PID namespace of another container that a container is to be in.
pub const TARGET_PIDS: &str = "target-pids";

/// What an external runtime makes the container of (OCI runtime-spec, "Filesystem Bundle").
pub const BUNDLE: &str = "bundle";
/// Where an external runtime keeps its state.
pub const RUNTIME: &str = "runtime";
pub const BUNDLE_CONFIG: &str = "config.json";
pub const BUNDLE_ROOT: &str = "rootfs";

/// Where mount `index` of the plan lies in a bundle, for the runtime to bind.
pub fn bundle_mount(bundle: &Path, index: usize) -> PathBuf {
    bundle.join("mounts").join(index.to_string())
}

/// `<state>/containers/<id>`.
pub fn container_state(state: &Path, id: &str) -> PathBuf {
    state.join("containers").join(id)
}

/// `<state>/pods/<id>`.
pub fn pod_state(state: &Path, id: &str) -> PathBuf {
    state.join("pods").join(id)
}

/// `<root>/containers/<id>`.
pub fn container_root(root: &Path, id: &str) -> PathBuf {
    root.join("containers").join(id)
}

/// `<root>/skeleton`.
pub fn skeleton(root: &Path) -> PathBuf {
    root.join("skeleton")
}

/// `<root>/empty`.
pub fn empty(root: &Path) -> PathBuf {
    root.join("empty")
}

/// `<root>/pods/<id>`: a file.
pub fn pod_record(root: &Path, id: &str) -> PathBuf {
    root.join("pods").join(id)
}
