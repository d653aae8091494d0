//! The handles that operations work with. It has next to no methods: behaviour lives in the modules that it is given to.

use std::sync::{Arc, Mutex, PoisonError};

use corten_cni::Cni;
use corten_image::ImageService;

use crate::{
    apparmor::Profiles,
    cdi::Cdi,
    config::{CgroupDriver, Config},
    limit::{Count, Gate},
    operation::{Ledger, Operations, Undo},
    selinux::Levels,
    shim::Launcher,
    spec,
    stats::Walks,
    store::Store,
    streaming::Tokens,
};

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    /// See [`crate::identity::instance`].
    pub(crate) instance: String,
    pub(crate) boot_id: String,
    pub(crate) host: spec::Host,
    pub(crate) defaults: spec::Defaults,
    pub(crate) store: Store,
    pub(crate) operations: Operations,
    pub(crate) ledger: Ledger,
    pub(crate) undo: Undo,
    pub(crate) cni: Cni,
    pub(crate) images: ImageService,
    pub(crate) cdi: Arc<Cdi>,
    pub(crate) launcher: Launcher,
    pub(crate) walks: Walks,
    pub(crate) apparmor: Profiles,
    pub(crate) selinux_levels: Arc<Levels>,
    pub(crate) tokens: Tokens,
    /// Pulls of images.
    pub(crate) pulls: Gate,
    /// Making pods and containers.
    pub(crate) creations: Gate,
    /// Commands of ExecSync that run.
    pub(crate) exec_syncs: Count,
    /// What an operator should know and what did not stop the start.
    pub(crate) conditions: Mutex<Vec<String>>,
}

impl Context {
    /// The parent of containers whose pod names none.
    pub(crate) fn cgroup_root(&self) -> String {
        match self.config.cgroup_driver {
            CgroupDriver::Cgroupfs => format!("/corten/{}", self.instance),
            CgroupDriver::Systemd => spec::slice_path(&self.slice()).unwrap_or_default(),
        }
    }

    /// The same as systemd names it.
    pub(crate) fn slice(&self) -> String {
        format!("corten-{}.slice", self.instance)
    }

    /// Tells the operator, by the log and by Status.
    pub(crate) fn add_condition(&self, text: String) {
        tracing::warn!(condition = text, "something is not as it should be");
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text);
    }
}
