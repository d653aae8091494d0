//! Which addresses a network has to give: the `ipam` part of a configuration.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use serde::Deserialize;
use serde_json::Value;

use crate::netlink::{Address, Route};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    #[serde(flatten)]
    range: Option<RangeConfig>,
    #[serde(default)]
    ranges: Vec<Vec<RangeConfig>>,
    #[serde(default)]
    routes: Vec<RouteConfig>,
    pub(super) data_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RangeConfig {
    subnet: String,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

#[derive(Clone, Debug, Deserialize)]
struct RouteConfig {
    dst: String,
    gw: Option<IpAddr>,
}

/// One address of each set is given.
pub(super) type Set = Vec<Range>;

/// Addresses from `first` to `last`, with their network's gateway.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) prefix: u8,
    first: u128,
    last: u128,
    pub(super) gateway: IpAddr,
}

impl Config {
    /// The sets in the order of the reference plugin: what the runtime gives (the capability `ipRanges`), `subnet`, `ranges`.
    pub(super) fn sets(&self, ip_ranges: &Value) -> Result<Vec<Set>, String> {
        let mut sets: Vec<Vec<RangeConfig>> = match ip_ranges {
            Value::Null => Vec::new(),
            ranges => serde_json::from_value(ranges.clone()).map_err(|error| error.to_string())?,
        };
        sets.extend(self.range.clone().map(|range| vec![range]));
        sets.extend(self.ranges.iter().cloned());
        if sets.is_empty() || sets.iter().any(Vec::is_empty) {
            return Err("it has no range of addresses".into());
        }
        sets.iter()
            .map(|set| set.iter().map(Range::new).collect())
            .collect()
    }

    pub(super) fn routes(&self) -> Result<Vec<Route>, String> {
        let routes = self.routes.iter().map(|route| {
            Ok(Route {
                destination: parse_network(&route.dst)?,
                gateway: route.gw,
            })
        });
        routes.collect()
    }
}

impl Range {
    fn new(config: &RangeConfig) -> Result<Self, String> {
        let network = parse_network(&config.subnet)?;
        let v4 = network.ip.is_ipv4();
        let bits = if v4 { 32 } else { 128 };
        if network.prefix + 2 > bits {
            return Err(format!("subnet {} has no room for hosts", config.subnet));
        }
        let size = 1u128 << (bits - network.prefix).min(127);
        let base = to_number(network.ip) & !(size - 1);
        // Without the network's own address and, for IPv4, its broadcast address.
        let (lowest, highest) = (base + 1, base + size - if v4 { 2 } else { 1 });
        let within = |ip: IpAddr| {
            let value = to_number(ip);
            if ip.is_ipv4() == v4 && (lowest..=highest).contains(&value) {
                Ok(value)
            } else {
                Err(format!("{ip} is not in subnet {}", config.subnet))
            }
        };
        let first = config.range_start.map_or(Ok(lowest), within)?;
        let last = config.range_end.map_or(Ok(highest), within)?;
        let gateway = config.gateway.unwrap_or_else(|| to_ip(lowest, v4));
        Ok(Self {
            prefix: network.prefix,
            first,
            last,
            gateway,
        })
    }

    fn is_v4(&self) -> bool {
        self.gateway.is_ipv4()
    }

    fn contains(&self, value: u128) -> bool {
        (self.first..=self.last).contains(&value)
    }
}

/// Every address of the set once, from the one after `last` on.
pub(super) fn candidates(
    set: &Set,
    last: Option<IpAddr>,
) -> impl Iterator<Item = (&Range, IpAddr)> {
    let last = last
        .map(to_number)
        .filter(|last| set.iter().any(|range| range.contains(*last)));
    let start = last.map_or(0, |last| last.saturating_add(1));
    let later = set.iter().flat_map(move |range| {
        (range.first.max(start)..=range.last).map(move |value| (range, value))
    });
    let earlier = set
        .iter()
        .flat_map(|range| (range.first..=range.last).map(move |value| (range, value)))
        .take_while(move |(_, value)| *value < start);
    later
        .chain(earlier)
        .map(|(range, value)| (range, to_ip(value, range.is_v4())))
}

/// "10.1.2.3-10.1.2.9, ..."
pub(super) fn describe(set: &Set) -> String {
    let ranges = set.iter().map(|range| {
        let (first, last) = (
            to_ip(range.first, range.is_v4()),
            to_ip(range.last, range.is_v4()),
        );
        format!("{first}-{last}")
    });
    ranges.collect::<Vec<_>>().join(", ")
}

/// "10.1.0.0/16"
pub(crate) fn parse_network(text: &str) -> Result<Address, String> {
    let wrong = || format!("{text:?} is not a network such as 10.1.0.0/16");
    let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    if prefix > if ip.is_ipv4() { 32 } else { 128 } {
        Err(wrong())
    } else {
        Ok(Address { ip, prefix })
    }
}

fn to_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn to_ip(value: u128, v4: bool) -> IpAddr {
    match u32::try_from(value) {
        Ok(value) if v4 => Ipv4Addr::from(value).into(),
        _ => Ipv6Addr::from(value).into(),
    }
}
