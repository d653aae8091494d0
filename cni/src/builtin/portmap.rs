//! portmap: ports of the host that lead to the pod.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{Builtin, Call, has_only, is_nftables};
use crate::{
    attachment::{PortMapping, Protocol},
    error::{Doing, Error, Result},
    netlink::{
        conntrack::forget_udp,
        nft::{Pod, Port},
    },
    result::ips,
};

const KNOWN: [&str; 6] = [
    "type",
    "name",
    "cniVersion",
    "capabilities",
    "snat",
    "backend",
];

/// Whether there is no key that only the reference plugin has.
pub(super) fn is_supported(plugin: &Map<String, Value>) -> bool {
    has_only(plugin, &KNOWN)
        && is_nftables(plugin, "backend")
        && plugin.get("snat").is_none_or(|snat| snat == true)
}

pub(super) fn add(builtin: &Builtin, call: &Call<'_>) -> Result<Value> {
    let pod = attached(call);
    if pod.ports.is_empty() {
        return Ok(Value::Null);
    }
    match builtin.table.add(&pod, &|| builtin.attached()) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(taken(&pod.ports));
        }
        result => result.doing(|| "set up nf_tables: host ports of the pod".into())?,
    }
    // Whoever asked before there was a pod, or another one.
    let ports = udp(&pod).map(|port| port.host_port).collect::<Vec<_>>();
    forget(&ports, |flow| ports.contains(&flow.destination_port))?;
    Ok(Value::Null)
}

pub(super) fn del(builtin: &Builtin, call: &Call<'_>) -> Result<()> {
    let pod = attached(call);
    if pod.ports.is_empty() {
        return Ok(());
    }
    builtin
        .table
        .del(&pod, &|| builtin.attached())
        .doing(|| "take the pod's host ports out of nf_tables".into())?;
    let ips = udp(&pod).map(|port| port.ip).collect::<Vec<IpAddr>>();
    forget(&ips, |flow| ips.contains(&flow.answered_by))
}

fn udp(pod: &Pod) -> impl Iterator<Item = &Port> {
    pod.ports
        .iter()
        .filter(|port| port.protocol == Protocol::Udp)
}

/// Reads all flows, and so only when there is something to look for.
fn forget<T>(
    wanted: &[T],
    unwanted: impl Fn(&crate::netlink::conntrack::Flow) -> bool,
) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    forget_udp(unwanted).doing(|| "delete tracked UDP flows of host ports".into())
}

/// Every mapping that the plugin was given, with the pod's address of the fitting family. Without a result nothing was
/// opened.
pub(super) fn attached(call: &Call<'_>) -> Pod {
    let ips = ips(&call.config["prevResult"]);
    let mut ports = Vec::new();
    if !call.config["runtimeConfig"]["portMappings"].is_null() {
        let mappings = call.pod.port_mappings.iter();
        ports.extend(mappings.flat_map(|mapping| leads(mapping, &ips)));
    }
    Pod {
        ports,
        ..Pod::default()
    }
}

fn leads(mapping: &PortMapping, ips: &[IpAddr]) -> impl Iterator<Item = Port> {
    let fitting = ips.iter().filter(|ip| {
        mapping
            .host_ip
            .is_none_or(|host| host.is_ipv4() == ip.is_ipv4())
    });
    fitting.map(|ip| Port {
        protocol: mapping.protocol,
        host_ip: mapping.host_ip.filter(|ip| !ip.is_unspecified()),
        host_port: mapping.host_port,
        ip: *ip,
        port: mapping.container_port,
    })
}

fn taken(ports: &[Port]) -> Error {
    let mut list: Vec<String> = ports
        .iter()
        .map(|port| format!("{}/{:?}", port.host_port, port.protocol).to_lowercase())
        .collect();
    list.dedup();
    let list = list.join(", ");
    Error::Plugin {
        plugin: "portmap".into(),
        command: "ADD",
        words: format!("one of the host ports {list} leads to another pod already"),
    }
}
