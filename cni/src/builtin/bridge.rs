//! bridge: a veth pair between the pod and a bridge of the host.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::fd::AsFd,
    thread::sleep,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Builtin, Call, has_only,
    host_local::{self, Given, Pool},
    is_nftables,
};
use crate::{
    attachment::INTERFACE,
    error::{Doing, Error, Result},
    netlink::{Address, Link, Links, Mac, Route, Veth, nft},
    reaper::Leaving,
    result::{addresses, ips},
};

const KNOWN: [&str; 13] = [
    "type",
    "name",
    "cniVersion",
    "bridge",
    "isGateway",
    "isDefaultGateway",
    "ipMasq",
    "ipMasqBackend",
    "hairpinMode",
    "mtu",
    "ipam",
    "dns",
    "capabilities",
];
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// Whether there is no key that only the reference plugin has.
pub(super) fn is_supported(plugin: &Map<String, Value>) -> bool {
    let ipam = plugin.get("ipam").and_then(Value::as_object);
    has_only(plugin, &KNOWN)
        && is_nftables(plugin, "ipMasqBackend")
        && ipam.is_some_and(host_local::is_supported)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default = "default_bridge")]
    bridge: String,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    ip_masq: bool,
    #[serde(default)]
    hairpin_mode: bool,
    #[serde(default)]
    mtu: u32,
}

fn default_bridge() -> String {
    "cni0".into()
}

impl Config {
    fn read(call: &Call<'_>) -> Result<Self> {
        let invalid = |reason| Error::Configuration {
            file: "(plugin bridge)".into(),
            reason,
        };
        let config: Self = serde_json::from_value(call.config.clone())
            .map_err(|error| invalid(error.to_string()))?;
        let name = &config.bridge;
        if name.is_empty() || name.len() > 15 || name.contains('/') {
            let what = "is not an interface's name of at most 15 characters";
            return Err(invalid(format!("bridge {name:?} {what}")));
        }
        Ok(config)
    }

    fn has_gateway(&self) -> bool {
        self.is_gateway || self.is_default_gateway
    }
}

/// The host's end: part of the container's id, which is random.
pub(crate) fn host_name(id: &str) -> String {
    format!("veth{}", id.get(..11).unwrap_or(id))
}

pub(super) fn add(builtin: &Builtin, call: &Call<'_>, inside: &mut Links) -> Result<Value> {
    let config = Config::read(call)?;
    let pool = Pool::new(call.config, &builtin.data_dir)?;
    let given = reserve(builtin, &pool, &call.pod.container_id)?;
    let mut host = Links::open().doing(|| "open a netlink socket".into())?;
    let bridge = ensure_bridge(&mut host, &config, &given)?;
    let port = connect(&mut host, call, &config, &bridge, &given)?;
    let addresses: Vec<Address> = given.iter().map(|given| given.address).collect();
    let routes = routes(&config, &pool, &given);
    inside
        .set_up(port.peer, &addresses, &routes)
        .doing(|| format!("set up {INTERFACE} in {}", call.pod.netns.display()))?;
    let pod = nft::Pod {
        addresses,
        masquerade: config.ip_masq,
        ports: Vec::new(),
    };
    builtin
        .table
        .add(&pod, &|| builtin.attached())
        .doing(|| "set up nf_tables: masquerade for the pod".into())?;
    let port_name = host_name(&call.pod.container_id);
    wait_until_up(&mut host, [&port_name, &config.bridge])?;
    Ok(result(
        call,
        &config.bridge,
        &given,
        &routes,
        [bridge.mac, port.mac],
    ))
}

/// Addresses that are on their way back are waited for when there are no others.
fn reserve(builtin: &Builtin, pool: &Pool, id: &str) -> Result<Vec<Given>> {
    match pool.reserve(id) {
        Err(Error::Exhausted { .. }) if builtin.reaper.wait() => pool.reserve(id),
        result => result,
    }
}

/// Finds the bridge or makes it, with its gateway addresses. What somebody has changed of it is put right.
fn ensure_bridge(host: &mut Links, config: &Config, given: &[Given]) -> Result<Link> {
    let name = &config.bridge;
    let find = |host: &mut Links| host.find(name).doing(|| format!("look for bridge {name}"));
    let mut found = find(host)?;
    if found.is_none() {
        let mac = given.first().map(|given| Mac::of(given.gateway));
        match host.add_bridge(name, mac.unwrap_or_default(), config.mtu) {
            // Another pod was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.doing(|| format!("create bridge {name}"))?,
        }
        found = find(host)?;
    }
    let Some(bridge) = found.filter(|link| link.is_bridge) else {
        let source = io::Error::other("a link of this name is there, and it is no bridge");
        let doing = format!("use {name} as bridge");
        return Err(Error::io(doing, source));
    };
    let mut gateways = Vec::new();
    if config.has_gateway() {
        gateways.extend(given.iter().map(|given| Address {
            ip: given.gateway,
            prefix: given.address.prefix,
        }));
    }
    host.set_up(bridge.index, &gateways, &[])
        .doing(|| format!("set up bridge {name}"))?;
    if config.has_gateway() {
        forward(name, given)?;
    }
    Ok(bridge)
}

/// The host forwards for its pods; and what it sends to their host ports from 127.0.0.1 may leave by the bridge.
fn forward(bridge: &str, given: &[Given]) -> Result<()> {
    let set = |path: String| {
        if fs::read(&path).is_ok_and(|value| value.starts_with(b"1")) {
            return Ok(());
        }
        fs::write(&path, "1").doing(|| format!("write 1 to {path}"))
    };
    if given.iter().any(|given| given.address.ip.is_ipv4()) {
        set("/proc/sys/net/ipv4/ip_forward".into())?;
        set(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"))?;
    }
    if given.iter().any(|given| given.address.ip.is_ipv6()) {
        set("/proc/sys/net/ipv6/conf/all/forwarding".into())?;
    }
    Ok(())
}

/// Makes the veth pair.
fn connect(
    host: &mut Links,
    call: &Call<'_>,
    config: &Config,
    bridge: &Link,
    given: &[Given],
) -> Result<Link> {
    let name = host_name(&call.pod.container_id);
    let path = &call.pod.netns;
    let netns = File::open(path).doing(|| format!("open network namespace {}", path.display()))?;
    let veth = Veth {
        name: &name,
        peer: INTERFACE,
        peer_mac: pod_mac(given),
        bridge: bridge.index,
        hairpin: config.hairpin_mode,
        netns: netns.as_fd(),
        mtu: config.mtu,
    };
    host.add_veth(&veth)
        .doing(|| format!("create the pair of {name} and the pod's {INTERFACE}"))
}

fn pod_mac(given: &[Given]) -> Mac {
    given
        .first()
        .map(|given| Mac::of(given.address.ip))
        .unwrap_or_default()
}

/// The routes that are configured, by the gateway of their family where they name none; and the default routes.
fn routes(config: &Config, pool: &Pool, given: &[Given]) -> Vec<Route> {
    let gateway = |ip: IpAddr| {
        let found = given
            .iter()
            .find(|given| given.gateway.is_ipv4() == ip.is_ipv4());
        found.map(|given| given.gateway)
    };
    let configured = pool.routes.iter();
    let mut routes: Vec<Route> = configured
        .map(|route| Route {
            gateway: route.gateway.or_else(|| gateway(route.destination.ip)),
            ..route.clone()
        })
        .collect();
    for given in given.iter().filter(|_| config.is_default_gateway) {
        let ip = if given.gateway.is_ipv4() {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0u16; 8])
        };
        let default = Route {
            destination: Address { ip, prefix: 0 },
            gateway: Some(given.gateway),
        };
        let is_default = |route: &Route| route.destination == default.destination;
        if !routes.iter().any(is_default) {
            routes.push(default);
        }
    }
    routes
}

/// The port forwards nothing before it is up, nor does the bridge, which goes down and up with its first port. Who does not
/// wait for the port loses the first packet of 3 pods in 100, and who does not wait for the bridge that of 2 in 750 on a
/// busy machine; ARP asks again after a second.
fn wait_until_up(host: &mut Links, names: [&str; 2]) -> Result<()> {
    let doing = || format!("wait for {}", names.join(" and "));
    let end = Instant::now() + PATIENCE;
    while !host.are_up(names).doing(doing)? {
        if Instant::now() > end {
            let text = format!("the kernel has not brought them up within {PATIENCE:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text)).doing(doing);
        }
        sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// CNI spec 1.1, section 5, "ADD success": of version 1.0.0, whatever the configuration's is.
fn result(
    call: &Call<'_>,
    bridge: &str,
    given: &[Given],
    routes: &[Route],
    macs: [Mac; 2],
) -> Value {
    let ips = given.iter().map(|given| {
        json!({
            "address": format!("{}/{}", given.address.ip, given.address.prefix),
            "gateway": given.gateway,
            "interface": 2,
        })
    });
    let routes = routes.iter().map(|route| {
        let destination = format!("{}/{}", route.destination.ip, route.destination.prefix);
        json!({ "dst": destination, "gw": route.gateway })
    });
    let [bridge_mac, port_mac] = macs.map(|mac| mac.to_string());
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            { "name": bridge, "mac": bridge_mac },
            { "name": host_name(&call.pod.container_id), "mac": port_mac },
            { "name": INTERFACE, "mac": pod_mac(given).to_string(), "sandbox": call.pod.netns },
        ],
        "ips": ips.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "dns": call.config.get("dns").cloned().unwrap_or_else(|| json!({})),
    })
}

/// What the table holds of a pod with this result.
pub(super) fn attached(call: &Call<'_>) -> nft::Pod {
    let masquerade = Config::read(call).is_ok_and(|config| config.ip_masq);
    nft::Pod {
        addresses: addresses(&call.config["prevResult"]),
        masquerade,
        ports: Vec::new(),
    }
}

/// Nobody reaches the pod any more; its link and addresses are left, and are one's who waits for the kernel.
pub(super) fn del(builtin: &Builtin, call: &Call<'_>) -> Result<Leaving> {
    let id = &call.pod.container_id;
    let leaving = leaving(builtin, call)?;
    builtin
        .reaper
        .retire(id)
        .doing(|| format!("set {} down", host_name(id)))?;
    let ips = leaving.pool.addresses_of(id, &leaving.ips)?;
    let address = |ip: &IpAddr| Address { ip: *ip, prefix: 0 };
    let pod = nft::Pod {
        addresses: ips.iter().map(address).collect(),
        masquerade: true,
        ports: Vec::new(),
    };
    builtin
        .table
        .del(&pod, &|| builtin.attached())
        .doing(|| "take the pod out of nf_tables".into())?;
    Ok(leaving)
}

/// What [`del`] leaves.
pub(super) fn leaving(builtin: &Builtin, call: &Call<'_>) -> Result<Leaving> {
    Ok(Leaving {
        id: call.pod.container_id.clone(),
        pool: Pool::new(call.config, &builtin.data_dir)?,
        ips: ips(&call.config["prevResult"]),
    })
}
