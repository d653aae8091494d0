//! host-local: addresses from ranges, with the state on disk that the reference plugin has, so that either can go on where
//! the other stopped: `<data_dir>/<network>/<address>` holds container id and interface, `last_reserved_ip.<n>` the last
//! address given of each set of ranges, `lock` is locked meanwhile.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::has_only;
use crate::{
    attachment::INTERFACE,
    error::{Doing, Error, Result},
    netlink::{Address, Route},
};

const KNOWN: [&str; 8] = [
    "type",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "routes",
    "ranges",
    "dataDir",
];

/// Written under the lock, and renamed.
const ASIDE: &str = "reserving";

/// Whether there is no key that only the reference plugin has.
pub(super) fn is_supported(ipam: &Map<String, Value>) -> bool {
    ipam.get("type").and_then(Value::as_str) == Some("host-local") && has_only(ipam, &KNOWN)
}

/// An address that was given, and its gateway.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub(super) address: Address,
    pub(super) gateway: IpAddr,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(flatten)]
    range: Option<RangeConfig>,
    #[serde(default)]
    ranges: Vec<Vec<RangeConfig>>,
    #[serde(default)]
    routes: Vec<RouteConfig>,
    data_dir: Option<PathBuf>,
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

/// A network's addresses.
#[derive(Debug)]
pub(super) struct Pool {
    network: String,
    dir: PathBuf,
    sets: Vec<Vec<Range>>,
    pub(super) routes: Vec<Route>,
}

#[derive(Clone, Debug)]
struct Range {
    prefix: u8,
    first: u128,
    last: u128,
    gateway: IpAddr,
}

impl Pool {
    /// From a plugin's `ipam`.
    pub(super) fn new(network: &str, ipam: &Value, data_dir: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::Configuration {
            file: format!("(network {network}, ipam)"),
            reason,
        };
        let config: Config =
            serde_json::from_value(ipam.clone()).map_err(|error| invalid(error.to_string()))?;
        let mut sets = config.ranges;
        if let Some(range) = config.range {
            sets.insert(0, vec![range]);
        }
        let ranges = |set: Vec<RangeConfig>| {
            set.iter()
                .map(Range::new)
                .collect::<Result<Vec<_>, String>>()
        };
        let sets = sets
            .into_iter()
            .map(ranges)
            .collect::<Result<Vec<_>, String>>()
            .map_err(invalid)?;
        if sets.is_empty() || sets.iter().any(Vec::is_empty) {
            return Err(invalid("it has no range of addresses".into()));
        }
        let routes = config.routes.iter().map(|route| {
            let destination = parse_network(&route.dst)?;
            Ok(Route {
                destination,
                gateway: route.gw,
            })
        });
        let routes = routes
            .collect::<Result<Vec<_>, String>>()
            .map_err(invalid)?;
        let dir = config
            .data_dir
            .unwrap_or_else(|| data_dir.to_owned())
            .join(network);
        Ok(Self {
            network: network.to_owned(),
            dir,
            sets,
            routes,
        })
    }

    /// Gives one address of each set. What the container has already is given again.
    pub(super) fn reserve(&self, id: &str) -> Result<Vec<Given>> {
        let _lock = self.lock()?;
        let mut given = Vec::new();
        for (number, set) in self.sets.iter().enumerate() {
            match self.reserve_one(id, number, set) {
                Ok(one) => given.push(one),
                Err(error) => {
                    self.release_locked(id)?;
                    return Err(error);
                }
            }
        }
        Ok(given)
    }

    fn reserve_one(&self, id: &str, number: usize, set: &[Range]) -> Result<Given> {
        let v4 = set.first().is_some_and(|range| range.gateway.is_ipv4());
        let last = self.dir.join(format!("last_reserved_ip.{number}"));
        let last_given = fs::read_to_string(&last)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .map(to_number);
        for (range, value) in candidates(set, last_given) {
            let ip = to_ip(value, v4);
            if ip == range.gateway || !self.take(ip, id)? {
                continue;
            }
            fs::write(&last, ip.to_string()).doing(|| format!("write {}", last.display()))?;
            return Ok(Given {
                address: Address {
                    ip,
                    prefix: range.prefix,
                },
                gateway: range.gateway,
            });
        }
        let ranges = set
            .iter()
            .map(|range| format!("{}-{}", to_ip(range.first, v4), to_ip(range.last, v4)));
        Err(Error::Exhausted {
            network: self.network.clone(),
            ranges: ranges.collect::<Vec<_>>().join(", "),
        })
    }

    /// Writes the address down for the container; false when it is another's. The file appears with its content, so that
    /// none without an owner stays after a kill.
    fn take(&self, ip: IpAddr, id: &str) -> Result<bool> {
        let (aside, path) = (self.dir.join(ASIDE), self.dir.join(ip.to_string()));
        if path.exists() {
            return Ok(false);
        }
        fs::write(&aside, format!("{id}\r\n{INTERFACE}"))
            .and_then(|()| fs::rename(&aside, &path))
            .doing(|| format!("write {}", path.display()))?;
        Ok(true)
    }

    /// Frees everything that the container has.
    pub(super) fn release(&self, id: &str) -> Result<Vec<IpAddr>> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        self.release_locked(id)
    }

    fn release_locked(&self, id: &str) -> Result<Vec<IpAddr>> {
        let mut freed = Vec::new();
        for ip in self.addresses_of(id)? {
            let path = self.dir.join(ip.to_string());
            fs::remove_file(&path).doing(|| format!("remove {}", path.display()))?;
            freed.push(ip);
        }
        Ok(freed)
    }

    /// The addresses that the container has.
    pub(super) fn addresses_of(&self, id: &str) -> Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            result => result.doing(|| format!("list {}", self.dir.display()))?,
        };
        for entry in entries.flatten() {
            let Some(ip) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<IpAddr>().ok())
            else {
                continue;
            };
            let owner = fs::read_to_string(entry.path()).unwrap_or_default();
            let mut lines = owner.lines().map(str::trim);
            if lines.next() == Some(id) && lines.next().is_none_or(|name| name == INTERFACE) {
                found.push(ip);
            }
        }
        Ok(found)
    }

    fn lock(&self) -> Result<Flock<File>> {
        fs::create_dir_all(&self.dir).doing(|| format!("create {}", self.dir.display()))?;
        let path = self.dir.join("lock");
        let doing = || format!("lock {}", path.display());
        let file = File::create(&path).doing(doing)?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io::Error::from(errno))
            .doing(doing)
    }
}

/// Every address of the set once, from the one after `last` on.
fn candidates(set: &[Range], last: Option<u128>) -> impl Iterator<Item = (&Range, u128)> {
    let all = move || {
        set.iter()
            .flat_map(|range| (range.first..=range.last).map(move |value| (range, value)))
    };
    let start = last.map_or(0, |last| last.saturating_add(1));
    let in_range = last.is_some_and(|last| {
        set.iter()
            .any(|range| (range.first..=range.last).contains(&last))
    });
    let start = if in_range { start } else { 0 };
    let later = set.iter().flat_map(move |range| {
        (range.first.max(start)..=range.last).map(move |value| (range, value))
    });
    later.chain(all().take_while(move |(_, value)| *value < start))
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
}

pub(super) fn parse_network(text: &str) -> Result<Address, String> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(ipam: &Value) -> (tempfile::TempDir, Pool) {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new("net", ipam, dir.path()).unwrap();
        (dir, pool)
    }

    fn reserve(pool: &Pool, id: &str) -> String {
        pool.reserve(id)
            .unwrap()
            .iter()
            .map(|given| given.address.ip.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn addresses_go_round_and_the_gateway_is_left_out() {
        let (dir, pool) = pool(&json!({ "type": "host-local", "subnet": "10.0.0.0/29" }));
        let given: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|id| reserve(&pool, id))
            .into();
        assert_eq!(
            given,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert!(matches!(pool.reserve("f"), Err(Error::Exhausted { .. })));
        assert_eq!(pool.release("b").unwrap().len(), 1);
        assert!(pool.release("b").unwrap().is_empty());
        assert_eq!(reserve(&pool, "g"), "10.0.0.3");
        let owner = fs::read_to_string(dir.path().join("net/10.0.0.3")).unwrap();
        assert_eq!(owner, "g\r\neth0");
    }

    #[test]
    fn both_families_and_bounds() {
        let ipam = json!({ "type": "host-local", "ranges": [
            [{ "subnet": "10.1.0.0/16", "rangeStart": "10.1.2.3", "rangeEnd": "10.1.2.4", "gateway": "10.1.0.1" }],
            [{ "subnet": "fd00::/64" }],
        ] });
        let (_dir, pool) = pool(&ipam);
        assert_eq!(reserve(&pool, "a"), "10.1.2.3 fd00::2");
        assert_eq!(reserve(&pool, "b"), "10.1.2.4 fd00::3");
        // The second set has room, and gives nothing back half.
        assert!(pool.reserve("c").is_err());
        assert!(pool.addresses_of("c").unwrap().is_empty());
    }

    #[test]
    fn bad_ranges_are_told() {
        for ipam in [
            json!({ "type": "host-local" }),
            json!({ "type": "host-local", "subnet": "10.0.0.0" }),
            json!({ "type": "host-local", "subnet": "10.0.0.0/31" }),
            json!({ "type": "host-local", "subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1" }),
        ] {
            assert!(Pool::new("net", &ipam, Path::new("/")).is_err(), "{ipam}");
        }
    }
}
