//! What is attached, and what came of it.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use nix::sys::statfs::{NSFS_MAGIC, statfs};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// The interface in the pod.
pub(crate) const INTERFACE: &str = "eth0";

/// A pod that is to have a network.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Attachment {
    pub container_id: String,
    /// Where its network namespace is pinned.
    pub netns: PathBuf,
    pub pod_name: String,
    pub pod_namespace: String,
    pub pod_uid: String,
    pub port_mappings: Vec<PortMapping>,
    /// Kept with the attachment as far as a plugin asks for it: DEL has what ADD had.
    #[serde(default)]
    pub capabilities: Capabilities,
}

/// Further values for plugins that ask for them, each under the name and in the form of its capability (CNI conventions,
/// "Well-known Capabilities"; the annotations as containerd and CRI-O give them). The CRI has none for `ips`, `mac`,
/// `infinibandGUID`, `deviceID` and `aliases`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    #[serde(
        rename = "io.kubernetes.cri.pod-annotations",
        skip_serializing_if = "Option::is_none"
    )]
    pub pod_annotations: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Parent of the cgroups of the pod's containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
}

/// Limits of the pod's interface: bits a second, and bits; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    pub ingress_rate: u64,
    pub ingress_burst: u64,
    pub egress_rate: u64,
    pub egress_burst: u64,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// `None`: every address of the host.
    pub host_ip: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As in /etc/protocols.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// The network that a pod has got.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Of the pod's interface, in the order of the result.
    pub ips: Vec<IpAddr>,
    /// As the last plugin has given it.
    pub result: Value,
}

impl Attachment {
    /// CNI_ARGS as the kubelet's runtimes give it.
    pub(crate) fn args(&self) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            self.pod_namespace, self.pod_name, self.container_id, self.pod_uid
        )
    }

    /// Whether all of it can become a file's name, and be told in CNI_ARGS.
    pub(crate) fn check(&self) -> Result<()> {
        let id = &self.container_id;
        let is_id = |char: char| char.is_ascii_alphanumeric() || "_.-".contains(char);
        if !id.starts_with(|char: char| char.is_ascii_alphanumeric()) || !id.chars().all(is_id) {
            let (field, value) = ("container id", id.clone());
            return Err(Error::Attachment { field, value });
        }
        for (field, value) in [
            ("name", &self.pod_name),
            ("namespace", &self.pod_namespace),
            ("uid", &self.pod_uid),
        ] {
            if value.contains([';', '\0']) {
                let value = value.clone();
                return Err(Error::Attachment { field, value });
            }
        }
        Ok(())
    }

    /// The namespace's path while it is pinned there; else empty (CNI spec 1.1, DEL). After a reboot the file may be
    /// there without a namespace.
    pub(crate) fn present_netns(&self) -> String {
        match statfs(&self.netns) {
            Ok(found) if found.filesystem_type() == NSFS_MAGIC => self.netns.display().to_string(),
            _ => String::new(),
        }
    }

    /// The capability `portMappings` of runtimeConfig.
    pub(crate) fn port_mappings_json(&self) -> Value {
        let mappings = self.port_mappings.iter().map(|mapping| {
            let mut json = json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol,
            });
            if let Some(ip) = mapping.host_ip {
                json["hostIP"] = json!(ip);
            }
            json
        });
        mappings.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_another_argument_is_refused() {
        let pod = |id: &str, name: &str| Attachment {
            container_id: id.into(),
            netns: "/netns".into(),
            pod_name: name.into(),
            pod_namespace: String::new(),
            pod_uid: String::new(),
            port_mappings: Vec::new(),
            capabilities: Capabilities::default(),
        };
        pod("0a_.-", "a-pod").check().unwrap();
        for (id, name) in [("", ""), ("../a", ""), (".a", ""), ("a", "pod;IP=10.0.0.1")] {
            assert!(pod(id, name).check().is_err(), "{id} {name}");
        }
    }
}
