//! The init of a pod's PID namespace, for pods whose containers share one.

use std::path::{Path, PathBuf};

use corten_proto::{record::Scope, shim::PodInit};

use super::run::Plan;
use crate::{
    context::Context,
    error::{Error, Result},
    shim, spec, systemd,
};

/// Starts the init and pins its namespace on `pin`. It is in all other namespaces of the pod, too, and in a cgroup of the
/// pod's: a container that may look into processes finds nothing of the host by it.
pub(crate) async fn start(cx: &Context, plan: &Plan, pin: &Path) -> Result<()> {
    let failed = |source: shim::Error| Error::Shim {
        doing: "start the init of the pod's PID namespace".into(),
        source,
    };
    let helper = cx.launcher.start_pod_init(pin).map_err(failed)?;
    if let Some(scope) = &plan.scope {
        systemd::place(&cx.undo.hierarchies, scope, helper.pid).await?;
    }
    let text = |path: &Option<PathBuf>| {
        let text = path.as_deref().map(|path| path.display().to_string());
        text.unwrap_or_default()
    };
    let process = spec::pod_process_label(&plan.config, &plan.selinux_level);
    let (process_label, root_label) = spec::pod_file_label(&plan.selinux_level)
        .map(|files| (process, files))
        .unwrap_or_default();
    let wanted = PodInit {
        user: text(&plan.paths.user),
        network: text(&plan.paths.net),
        ipc: text(&plan.paths.ipc),
        uts: text(&plan.paths.uts),
        cgroup: cgroup(&plan.id, &plan.cgroup_parent, plan.scope.as_ref()).unwrap_or_default(),
        own_cgroup_namespace: cx.undo.hierarchies.is_unified(),
        process_label,
        root_label,
    };
    helper.make(&wanted).await.map_err(failed)
}

/// The init's own cgroup. In a scope it is with the pod's shims.
pub(super) fn cgroup(id: &str, parent: &str, scope: Option<&Scope>) -> Option<String> {
    scope.is_none().then(|| format!("{parent}/{id}"))
}
