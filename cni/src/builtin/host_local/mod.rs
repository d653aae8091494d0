//! host-local: addresses from ranges, with the state on disk that the reference plugin has, so that either can go on where
//! the other stopped: `<data_dir>/<network>/<address>` holds container id and interface, `last_reserved_ip.<n>` the last
//! address given of each set of ranges, `lock` is locked meanwhile.

mod range;

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use corten_sys::private;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
pub(crate) use range::parse_network;
use range::{Config, Set, candidates, describe};
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
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_micros(200);

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

/// A network's addresses.
#[derive(Debug)]
pub(crate) struct Pool {
    network: String,
    dir: PathBuf,
    sets: Vec<Set>,
    pub(super) routes: Vec<Route>,
}

impl Pool {
    /// From a plugin's configuration as a program gets it: its `ipam`, and the ranges that the runtime gives.
    pub(super) fn new(config: &Value, data_dir: &Path) -> Result<Self> {
        let network = config["name"].as_str().unwrap_or_default();
        let invalid = |reason: String| Error::Configuration {
            file: format!("(network {network}, ipam)"),
            reason,
        };
        let ipam: Config = serde_json::from_value(config["ipam"].clone())
            .map_err(|error| invalid(error.to_string()))?;
        let sets = ipam.sets(&config["runtimeConfig"]["ipRanges"]);
        let dir = ipam.data_dir.as_deref().unwrap_or(data_dir);
        Ok(Self {
            network: network.into(),
            dir: dir.join(network),
            sets: sets.map_err(invalid)?,
            routes: ipam.routes().map_err(invalid)?,
        })
    }

    /// Gives one address of each set, or none.
    pub(super) fn reserve(&self, id: &str) -> Result<Vec<Given>> {
        let _lock = self.lock()?;
        let mut given: Vec<Given> = Vec::new();
        for (number, set) in self.sets.iter().enumerate() {
            match self.reserve_one(id, number, set) {
                Ok(one) => given.push(one),
                Err(error) => {
                    self.release_locked(given.iter().map(|given| given.address.ip))?;
                    return Err(error);
                }
            }
        }
        Ok(given)
    }

    fn reserve_one(&self, id: &str, number: usize, set: &Set) -> Result<Given> {
        let last = self.dir.join(format!("last_reserved_ip.{number}"));
        let last_given = fs::read_to_string(&last)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        for (range, ip) in candidates(set, last_given) {
            if ip == range.gateway || !self.take(ip, id)? {
                continue;
            }
            private::write(&last, ip.to_string()).doing(|| format!("write {}", last.display()))?;
            let (prefix, gateway) = (range.prefix, range.gateway);
            let address = Address { ip, prefix };
            return Ok(Given { address, gateway });
        }
        Err(Error::Exhausted {
            network: self.network.clone(),
            ranges: describe(set),
        })
    }

    /// Writes the address down for the container; false when it is another's. The file appears with its content, so that
    /// none without an owner stays after a kill.
    fn take(&self, ip: IpAddr, id: &str) -> Result<bool> {
        let (aside, path) = (self.dir.join(ASIDE), self.dir.join(ip.to_string()));
        if path.exists() {
            return Ok(false);
        }
        private::write(&aside, format!("{id}\r\n{INTERFACE}"))
            .and_then(|()| fs::rename(&aside, &path))
            .doing(|| format!("write {}", path.display()))?;
        Ok(true)
    }

    /// Frees everything that the container has. The addresses in `known` are looked at first: when they are the container's
    /// they are all that it has, and thousands of files need not be read.
    pub(crate) fn release(&self, id: &str, known: &[IpAddr]) -> Result<Vec<IpAddr>> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        let freed = self.addresses_of(id, known)?;
        self.release_locked(freed.iter().copied())?;
        Ok(freed)
    }

    fn release_locked(&self, ips: impl Iterator<Item = IpAddr>) -> Result<()> {
        for ip in ips {
            let path = self.dir.join(ip.to_string());
            fs::remove_file(&path).doing(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// The addresses that the container has; see [`Self::release`]. Fewer than there are sets are not all: a later plugin, or an
    /// old version's form of the result, may have left some out.
    pub(super) fn addresses_of(&self, id: &str, known: &[IpAddr]) -> Result<Vec<IpAddr>> {
        let mut known = known.to_vec();
        known.sort();
        known.dedup();
        if known.len() >= self.sets.len() && known.iter().all(|ip| self.is_owner(id, *ip)) {
            return Ok(known);
        }
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.doing(|| format!("list {}", self.dir.display()))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let ips = names.filter_map(|name| name.parse().ok());
        Ok(ips.filter(|ip| self.is_owner(id, *ip)).collect())
    }

    /// A file without an interface is of a plugin from before there were several.
    fn is_owner(&self, id: &str, ip: IpAddr) -> bool {
        let owner = fs::read_to_string(self.dir.join(ip.to_string())).unwrap_or_default();
        let mut lines = owner.lines().map(str::trim);
        lines.next() == Some(id) && lines.next().is_none_or(|name| name == INTERFACE)
    }

    /// Another program may hold the lock, and hang.
    fn lock(&self) -> Result<Flock<File>> {
        private::create_dir_all(&self.dir).doing(|| format!("create {}", self.dir.display()))?;
        let path = self.dir.join("lock");
        let doing = || format!("lock {}", path.display());
        let mut file = private::create(&path).doing(doing)?;
        let end = Instant::now() + PATIENCE;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EWOULDBLOCK)) if Instant::now() < end => file = back,
                Err((_, errno)) => return Err(errno.into()).doing(doing),
            }
            sleep(LOOK_AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(ipam: &Value) -> (tempfile::TempDir, Pool) {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(&json!({ "name": "net", "ipam": ipam }), dir.path()).unwrap();
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
        assert_eq!(pool.release("b", &[]).unwrap().len(), 1);
        assert!(pool.release("b", &[]).unwrap().is_empty());
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
        assert!(pool.addresses_of("c", &[]).unwrap().is_empty());
    }

    #[test]
    fn bad_ranges_are_told() {
        for ipam in [
            json!({ "type": "host-local" }),
            json!({ "type": "host-local", "subnet": "10.0.0.0" }),
            json!({ "type": "host-local", "subnet": "10.0.0.0/31" }),
            json!({ "type": "host-local", "subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1" }),
        ] {
            let config = json!({ "name": "net", "ipam": ipam });
            assert!(Pool::new(&config, Path::new("/")).is_err(), "{config}");
        }
    }

    #[test]
    fn known_addresses_are_freed_when_they_are_the_containers() {
        let (_dir, pool) = pool(&json!({ "type": "host-local", "subnet": "10.0.0.0/29" }));
        let [a, b]: [IpAddr; 2] = ["a", "b"].map(|id| reserve(&pool, id).parse().unwrap());
        assert_eq!(pool.release("a", &[b]).unwrap(), [a]);
        assert_eq!(pool.release("b", &[b]).unwrap(), [b]);
    }

    #[test]
    fn addresses_that_the_result_leaves_out_are_freed() {
        let ranges = json!([[{ "subnet": "10.0.0.0/29" }], [{ "subnet": "10.0.1.0/29" }]]);
        let (dir, pool) = pool(&json!({ "type": "host-local", "ranges": ranges }));
        let given = pool.reserve("a").unwrap();
        let freed = pool.release("a", &[given[0].address.ip]).unwrap();
        assert_eq!(freed.len(), 2);
        assert!(!dir.path().join("net/10.0.1.2").exists());
    }

    #[test]
    fn the_runtimes_ranges_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "name": "net", "ipam": { "type": "host-local" },
            "runtimeConfig": { "ipRanges": [[{ "subnet": "10.7.0.0/24" }]] },
        });
        assert_eq!(
            reserve(&Pool::new(&config, dir.path()).unwrap(), "a"),
            "10.7.0.2"
        );
    }
}
