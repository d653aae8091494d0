//! RuntimeConfig: the kubelet takes the cgroup driver from here.

use std::sync::Arc;

use corten_proto::cri;

use crate::{config::CgroupDriver, context::Context, error::Result};

pub(super) async fn handle(
    cx: &Arc<Context>,
    _: cri::RuntimeConfigRequest,
) -> Result<cri::RuntimeConfigResponse> {
    let cgroup_driver = match cx.config.cgroup_driver {
        CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
    };
    let linux = cri::LinuxRuntimeConfiguration {
        cgroup_driver: cgroup_driver.into(),
    };
    Ok(cri::RuntimeConfigResponse { linux: Some(linux) })
}
