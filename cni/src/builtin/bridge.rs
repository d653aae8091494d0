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
};
use crate::{
    attachment::INTERFACE,
    error::{Doing, Error, Result},
    netlink::{Address, Link, Links, Route, Veth},
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
    "prevResult",
    "dns",
];
/// The bridge port forwards nothing before it is up; then the first packet would be lost, and ARP waits a second.
const PORT_UP: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// Whether there is no key that only the reference plugin has.
pub(super) fn is_supported(plugin: &Map<String, Value>) -> bool {
    let ipam = plugin.get("ipam").and_then(Value::as_object);
    has_only(plugin, &KNOWN) && ipam.is_some_and(host_local::is_supported)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    name: String,
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
    ipam: Value,
}

fn default_bridge() -> String {
    "cni0".into()
}

impl Config {
    fn read(call: &Call<'_>) -> Result<Self> {
        let config: Self =
            serde_json::from_value(call.config.clone()).map_err(|error| Error::Configuration {
                file: "(plugin bridge)".into(),
                reason: error.to_string(),
            })?;
        if config.bridge.is_empty() || config.bridge.len() > 15 || config.bridge.contains('/') {
            let reason = format!(
                "bridge {:?} is not an interface's name of at most 15 characters",
                config.bridge
            );
            return Err(Error::Configuration {
                file: "(plugin bridge)".into(),
                reason,
            });
        }
        Ok(config)
    }
}

/// The host's end: part of the container's id, which is random.
fn host_name(id: &str) -> String {
    format!("veth{}", id.get(..11).unwrap_or(id))
}

pub(super) fn add(builtin: &Builtin, call: &Call<'_>) -> Result<Value> {
    let config = Config::read(call)?;
    let pool = Pool::new(&config.name, &config.ipam, &builtin.data_dir)?;
    let given = pool.reserve(&call.pod.container_id)?;
    let mut host = Links::open().doing(|| "open a netlink socket".into())?;
    let bridge = ensure_bridge(&mut host, &config, &given)?;
    let port = connect(&mut host, call, &config, &bridge)?;
    let inside = set_up_pod(call, &config, &pool, &given)?;
    let addresses: Vec<Address> = given.iter().map(|given| given.address).collect();
    let table = || "set up nf_tables: masquerade for the pod".to_owned();
    builtin
        .table
        .add_pod(&addresses, config.ip_masq)
        .doing(table)?;
    let port = wait_for_port(&mut host, &host_name(&call.pod.container_id), port)?;
    Ok(result(
        call,
        &config,
        &pool,
        &given,
        [&bridge, &port, &inside],
    ))
}

/// Finds the bridge or makes it, with its gateway addresses.
fn ensure_bridge(host: &mut Links, config: &Config, given: &[Given]) -> Result<Link> {
    let name = &config.bridge;
    let find = |host: &mut Links| host.find(name).doing(|| format!("look for bridge {name}"));
    let bridge = match find(host)? {
        Some(bridge) => bridge,
        None => {
            match host.add_bridge(name, config.mtu) {
                // Another pod was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => result.doing(|| format!("create bridge {name}"))?,
            }
            if config.is_gateway || config.is_default_gateway {
                forward(name, given)?;
            }
            let gone = || Error::Io {
                doing: format!("look for bridge {name}"),
                source: io::ErrorKind::NotFound.into(),
            };
            find(host)?.ok_or_else(gone)?
        }
    };
    let gateways: Vec<Address> = if config.is_gateway || config.is_default_gateway {
        given
            .iter()
            .map(|given| Address {
                ip: given.gateway,
                prefix: given.address.prefix,
            })
            .collect()
    } else {
        Vec::new()
    };
    host.set_up(bridge.index, &gateways, &[])
        .doing(|| format!("set up bridge {name}"))?;
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
fn connect(host: &mut Links, call: &Call<'_>, config: &Config, bridge: &Link) -> Result<Link> {
    let name = host_name(&call.pod.container_id);
    let path = &call.pod.netns;
    let netns = File::open(path).doing(|| format!("open network namespace {}", path.display()))?;
    let veth = Veth {
        name: &name,
        peer: INTERFACE,
        bridge: bridge.index,
        netns: netns.as_fd(),
        mtu: config.mtu,
    };
    host.add_veth(&veth)
        .doing(|| format!("create the pair of {name} and the pod's {INTERFACE}"))?;
    let gone = || Error::Io {
        doing: format!("look for {name}"),
        source: io::ErrorKind::NotFound.into(),
    };
    let port = host
        .find(&name)
        .doing(|| format!("look for {name}"))?
        .ok_or_else(gone)?;
    if config.hairpin_mode {
        host.set_hairpin(port.index)
            .doing(|| format!("set hairpin mode of {name}"))?;
    }
    Ok(port)
}

/// Brings the pod's end up, with addresses and routes.
fn set_up_pod(call: &Call<'_>, config: &Config, pool: &Pool, given: &[Given]) -> Result<Link> {
    let doing = || format!("set up {INTERFACE} in {}", call.pod.netns.display());
    let mut inside = Links::open_in(&call.pod.netns).doing(doing)?;
    let link = inside.find(INTERFACE).doing(doing)?;
    let link = link
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .doing(doing)?;
    let addresses: Vec<_> = given.iter().map(|given| given.address).collect();
    inside
        .set_up(link.index, &addresses, &routes(config, pool, given))
        .doing(doing)?;
    Ok(link)
}

/// The routes that are configured, by the gateway of their family where they name none; and the default routes.
fn routes(config: &Config, pool: &Pool, given: &[Given]) -> Vec<Route> {
    let gateway = |ip: IpAddr| {
        given
            .iter()
            .find(|given| given.gateway.is_ipv4() == ip.is_ipv4())
            .map(|given| given.gateway)
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
        if !routes
            .iter()
            .any(|route| route.destination == default.destination)
        {
            routes.push(default);
        }
    }
    routes
}

fn wait_for_port(host: &mut Links, name: &str, mut port: Link) -> Result<Link> {
    let end = Instant::now() + PORT_UP;
    while !port.is_up && Instant::now() < end {
        sleep(LOOK_AGAIN);
        if let Some(now) = host.find(name).doing(|| format!("look for {name}"))? {
            port = now;
        }
    }
    if port.is_up {
        return Ok(port);
    }
    let source = io::Error::new(io::ErrorKind::TimedOut, "the kernel has not brought it up");
    Err(Error::Io {
        doing: format!("wait for {name}"),
        source,
    })
}

/// CNI spec 1.1, section 5, "ADD success".
fn result(
    call: &Call<'_>,
    config: &Config,
    pool: &Pool,
    given: &[Given],
    links: [&Link; 3],
) -> Value {
    let version = call.config["cniVersion"].as_str().unwrap_or("1.0.0");
    let old = version.starts_with("0.");
    let [bridge, port, inside] = links;
    let ips = given.iter().map(|given| {
        let mut entry = json!({
            "address": format!("{}/{}", given.address.ip, given.address.prefix),
            "gateway": given.gateway,
            "interface": 2,
        });
        if old {
            entry["version"] = json!(if given.gateway.is_ipv4() { "4" } else { "6" });
        }
        entry
    });
    let routes = routes(config, pool, given).into_iter().map(|route| {
        let destination = format!("{}/{}", route.destination.ip, route.destination.prefix);
        json!({ "dst": destination, "gw": route.gateway })
    });
    json!({
        "cniVersion": version,
        "interfaces": [
            { "name": config.bridge, "mac": bridge.mac },
            { "name": host_name(&call.pod.container_id), "mac": port.mac },
            { "name": INTERFACE, "mac": inside.mac, "sandbox": call.pod.netns },
        ],
        "ips": ips.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "dns": call.config.get("dns").cloned().unwrap_or_else(|| json!({})),
    })
}

/// The link first: its address is free when nobody answers to it any more.
pub(super) fn del(builtin: &Builtin, call: &Call<'_>) -> Result<()> {
    let config = Config::read(call)?;
    let name = host_name(&call.pod.container_id);
    let mut host = Links::open().doing(|| "open a netlink socket".into())?;
    if let Some(port) = host.find(&name).doing(|| format!("look for {name}"))? {
        // Unreachable at once; deleting waits for the kernel.
        host.set_down(port.index)
            .doing(|| format!("set {name} down"))?;
        host.delete(port.index).doing(|| format!("delete {name}"))?;
    }
    let pool = Pool::new(&config.name, &config.ipam, &builtin.data_dir)?;
    let ips = pool.addresses_of(&call.pod.container_id)?;
    builtin
        .table
        .del_pod(&ips)
        .doing(|| "take the pod out of nf_tables".into())?;
    pool.release(&call.pod.container_id)?;
    Ok(())
}

/// Takes a bridge away that nobody uses any more.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    let mut host = Links::open()?;
    match host.find(name)? {
        Some(bridge) => host.delete(bridge.index),
        None => Ok(()),
    }
}
