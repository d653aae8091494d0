//! The embedded network for machines without a configuration: a bridge of this instance's own.

use std::{fs, io, net::Ipv4Addr, path::Path};

use corten_sys::private;
use serde_json::{Value, json};

use crate::{
    conflist::Conflist,
    error::{Doing, Result},
};

const CHOICE: &str = "dev-network";

/// Ends with the instance's id: 15 characters, as long as an interface's name may be.
pub(crate) fn bridge(instance: &str) -> String {
    format!("corten-{instance}")
}

/// The configuration, on a network that nobody else on the host uses. The choice is kept in `dir`.
pub(crate) fn conflist(instance: &str, dir: &Path) -> Result<Conflist> {
    // Of this thread's network namespace; /proc/net is the first thread's.
    let routes = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let routes = others(&routes, &bridge(instance));
    let file = dir.join(CHOICE);
    let kept = fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|third| !is_used(*third, &routes));
    let third = match kept {
        Some(third) => third,
        None => {
            let third = free_network(instance, &routes);
            let kept = private::create_dir_all(dir)
                .and_then(|()| private::write(&file, third.to_string()));
            kept.doing(|| format!("write {}", file.display()))?;
            third
        }
    };
    Conflist::parse(&list(instance, third), None)
}

fn list(instance: &str, third: u8) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "corten-dev",
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge(instance),
                "isDefaultGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": { "type": "host-local", "ranges": [[{ "subnet": format!("10.88.{third}.0/24") }]] },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// Destination and mask of every route of the host (proc(5), /proc/net/route), but for the default and those of `bridge`.
fn others(table: &str, bridge: &str) -> Vec<(u32, u32)> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| {
            u32::from_str_radix(fields.get(index)?, 16)
                .ok()
                .map(u32::from_be)
        };
        let (destination, mask) = (number(1)?, number(7)?);
        (*fields.first()? != bridge && mask != 0).then_some((destination, mask))
    });
    routes.collect()
}

/// The third number of 10.88.x.0/24, from one that the instance suggests on.
fn free_network(instance: &str, routes: &[(u32, u32)]) -> u8 {
    let wish = u8::from_str_radix(instance.get(..2).unwrap_or("0"), 16).unwrap_or(0);
    let mut candidates = (0..=255u8).map(|step| wish.wrapping_add(step));
    candidates
        .find(|third| !is_used(*third, routes))
        .unwrap_or(wish)
}

/// Whether a route leads into 10.88.`third`.0/24, or it into a route's network.
fn is_used(third: u8, routes: &[(u32, u32)]) -> bool {
    let wanted = u32::from(Ipv4Addr::new(10, 88, third, 0));
    routes.iter().any(|(destination, mask)| {
        wanted & mask == *destination || destination & 0xffff_ff00 == wanted
    })
}

/// Forgets the choice.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(CHOICE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                          eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\n\
                          br0\t0005580A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";

    #[test]
    fn a_network_in_use_is_left_alone() {
        let routes = others(ROUTES, "corten-0123abcd");
        assert!(is_used(5, &routes));
        assert!(!is_used(6, &routes));
        assert_eq!(free_network("05aabbcc", &routes), 6);
        assert_eq!(others(ROUTES, "br0"), []);
    }

    #[test]
    fn the_choice_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = conflist("0123abcd", dir.path()).unwrap();
        fs::write(dir.path().join(CHOICE), "251").unwrap();
        let kept = conflist("0123abcd", dir.path()).unwrap();
        assert!(kept.to_json().to_string().contains("10.88.251.0/24"));
        assert_ne!(first, kept);
        forget(dir.path()).unwrap();
        assert_eq!(conflist("0123abcd", dir.path()).unwrap(), first);
    }

    #[test]
    fn the_list_is_valid_and_built_in() {
        let list = Conflist::parse(&list("0123abcd", 7), None).unwrap();
        assert!(list.plugins.iter().all(crate::builtin::has));
        assert!(bridge("0123abcd").len() <= 15);
    }
}
