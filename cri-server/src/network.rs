//! A pod's network attachment, as it stands in records and as the CNI library takes it.

use corten_cni::{Attachment, Capabilities, PortMapping, Protocol};
use corten_proto::{cri, record::Network};

/// The attachment that `network` records. Port mappings without a host port ask for nothing. What plugins were given beyond,
/// the library keeps.
pub(crate) fn attachment(network: &Network) -> Attachment {
    Attachment {
        container_id: network.container_id.clone(),
        netns: network.netns.clone().into(),
        pod_name: network.pod_name.clone(),
        pod_namespace: network.pod_namespace.clone(),
        pod_uid: network.pod_uid.clone(),
        port_mappings: network
            .port_mappings
            .iter()
            .filter_map(port_mapping)
            .collect(),
        capabilities: Capabilities::default(),
    }
}

fn port_mapping(mapping: &cri::PortMapping) -> Option<PortMapping> {
    let host_port = u16::try_from(mapping.host_port)
        .ok()
        .filter(|port| *port != 0)?;
    Some(PortMapping {
        protocol: match mapping.protocol() {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: u16::try_from(mapping.container_port).ok()?,
        host_port,
        host_ip: mapping.host_ip.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_without_host_port_is_left_out() {
        let port = |host_port| cri::PortMapping {
            container_port: 80,
            host_port,
            ..Default::default()
        };
        let network = Network {
            port_mappings: vec![port(0), port(8080)],
            ..Default::default()
        };
        let mappings = attachment(&network).port_mappings;
        assert_eq!(
            mappings
                .iter()
                .map(|mapping| mapping.host_port)
                .collect::<Vec<_>>(),
            [8080]
        );
    }
}
