//! The init of a pod's PID namespace, for pods whose containers share one.

use std::path::Path;

use crate::{
    context::Context,
    error::{Error, Result},
};

/// Starts the init and pins its namespace on `pin`. With a user namespace, pinned on `user`, it belongs to that.
pub(crate) async fn start(
    cx: &Context,
    pin: &Path,
    user: Option<&Path>,
    labels: Option<[&str; 2]>,
) -> Result<i32> {
    let started = cx.launcher.start_pod_init(pin, user, labels).await;
    started.map_err(|source| Error::Shim {
        doing: "start the init of the pod's PID namespace".into(),
        source,
    })
}
