//! portmap: ports of the host that lead to the pod.

use serde_json::{Map, Value};

use super::{Builtin, Call, has_only};
use crate::{
    attachment::ips,
    error::{Doing, Error, Result},
    netlink::nft::Port,
};

const KNOWN: [&str; 9] = [
    "type",
    "name",
    "cniVersion",
    "capabilities",
    "snat",
    "backend",
    "runtimeConfig",
    "prevResult",
    "args",
];

/// Whether there is no key that only the reference plugin has.
pub(super) fn is_supported(plugin: &Map<String, Value>) -> bool {
    has_only(plugin, &KNOWN) && plugin.get("snat").is_none_or(|snat| snat == true)
}

pub(super) fn add(builtin: &Builtin, call: &Call<'_>) -> Result<Value> {
    let ports = ports(call);
    if !ports.is_empty() {
        match builtin.table.add_ports(&ports) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let list = ports
                    .iter()
                    .map(|port| format!("{}/{:?}", port.host_port, port.protocol).to_lowercase());
                let list = list.collect::<Vec<_>>().join(", ");
                let words = format!("one of the host ports {list} leads to another pod already");
                return Err(Error::Plugin {
                    plugin: "portmap".into(),
                    command: "ADD",
                    words,
                });
            }
            result => result.doing(|| "set up nf_tables: host ports of the pod".into())?,
        }
    }
    Ok(call.config["prevResult"].clone())
}

pub(super) fn del(builtin: &Builtin, call: &Call<'_>) -> Result<()> {
    builtin
        .table
        .del_ports(&ports(call))
        .doing(|| "take the pod's host ports out of nf_tables".into())
}

/// Every mapping with the pod's address of the fitting family. Without a result nothing was opened.
fn ports(call: &Call<'_>) -> Vec<Port> {
    let ips = ips(&call.config["prevResult"]);
    let mappings = call.pod.port_mappings.iter();
    let ports = mappings.flat_map(|mapping| {
        let host_ip = mapping.host_ip.filter(|ip| !ip.is_unspecified());
        let fitting = ips.iter().filter(move |ip| {
            mapping
                .host_ip
                .is_none_or(|host| host.is_ipv4() == ip.is_ipv4())
        });
        fitting.map(move |ip| Port {
            protocol: mapping.protocol,
            host_ip,
            host_port: mapping.host_port,
            ip: *ip,
            port: mapping.container_port,
        })
    });
    ports.collect()
}
