//! Making a container by an external runtime: the shim prepares a bundle, the daemon writes its configuration.

use std::os::fd::BorrowedFd;

use corten_proto::shim::{Created, Oci, Plan};
use serde_json::Value;

use crate::{
    context::Context,
    error::{Error, Result},
    pod::Pod,
    shim::Client,
    spec,
};

/// What an external runtime needs besides the plan.
pub(super) struct External {
    oci: Oci,
    seccomp: Value,
}

impl External {
    /// For a container of `pod`; `None` where its handler is our own executor.
    pub(super) fn plan(
        cx: &Context,
        pod: &Pod,
        container: &spec::Container<'_>,
        plan: &Plan,
    ) -> Result<Option<Self>> {
        let name = &pod.record.runtime_handler;
        // The configuration may be another one than when the pod was made.
        let handler = cx.config.handlers.get(name).ok_or_else(|| Error::State {
            subject: format!("runtime handler {name:?} of pod sandbox {}", pod.record.id),
            state: "missing in the configuration",
            need: "configure it again, or make a new pod",
        })?;
        let Some(oci) = handler.oci() else {
            return Ok(None);
        };
        let seccomp = spec::oci_seccomp(container, plan)?;
        Ok(Some(Self { oci, seccomp }))
    }

    /// Both halves of the creation.
    pub(super) async fn create(
        self,
        client: &Client,
        plan: Plan,
        template: BorrowedFd<'_>,
    ) -> Result<Created> {
        let failed = |doing: &'static str| move |source| Error::of_shim(doing, source);
        let prepared = client
            .prepare(plan.clone(), self.oci, template)
            .await
            .map_err(failed("prepare the container's bundle"))?;
        let config = spec::oci_config(plan, &prepared, self.seccomp)?;
        client
            .configure(config.to_string().into_bytes())
            .await
            .map_err(failed("create the container"))
    }
}
