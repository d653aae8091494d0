//! The embedded network for machines without a configuration: a bridge of this instance's own.

use std::{fs, io, net::Ipv4Addr, path::Path};

use serde_json::{Value, json};

use crate::{
    conflist::Conflist,
    error::{Doing, Result},
};

/// Ends with the instance's id: 15 characters, as long as an interface's name may be.
pub(crate) fn bridge(instance: &str) -> String {
    format!("corten-{instance}")
}

/// The configuration, on a network that the host does not use. The choice is kept in `cache_dir`.
pub(crate) fn conflist(instance: &str, cache_dir: &Path) -> Result<Conflist> {
    let file = cache_dir.join("dev-network");
    let kept = fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let third = match kept {
        Some(third) => third,
        None => {
            let third = free_network(
                instance,
                &fs::read_to_string("/proc/net/route").unwrap_or_default(),
            );
            let kept =
                fs::create_dir_all(cache_dir).and_then(|()| fs::write(&file, third.to_string()));
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

/// The third number of 10.88.x.0/24, from one that the instance suggests on.
fn free_network(instance: &str, routes: &str) -> u8 {
    let wish = u8::from_str_radix(instance.get(..2).unwrap_or("0"), 16).unwrap_or(0);
    let candidates = (0..=255u8).map(|step| wish.wrapping_add(step));
    candidates
        .clone()
        .find(|third| !is_used(*third, routes))
        .unwrap_or(wish)
}

/// Whether a route of the host, but for the default, leads into 10.88.`third`.0/24 (proc(5), /proc/net/route).
fn is_used(third: u8, routes: &str) -> bool {
    let wanted = u32::from(Ipv4Addr::new(10, 88, third, 0));
    routes.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let number = |text: Option<&str>| u32::from_str_radix(text?, 16).ok().map(u32::from_be);
        let (destination, mask) = (number(fields.next()), number(fields.nth(5)));
        match (destination, mask) {
            (Some(destination), Some(mask)) if mask != 0 => {
                wanted & mask == destination || destination & 0xffff_ff00 == wanted
            }
            _ => false,
        }
    })
}

/// Forgets the choice.
pub(crate) fn forget(cache_dir: &Path) -> io::Result<()> {
    match fs::remove_file(cache_dir.join("dev-network")) {
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
        assert!(is_used(5, ROUTES));
        assert!(!is_used(6, ROUTES));
        assert_eq!(free_network("05aabbcc", ROUTES), 6);
    }

    #[test]
    fn the_list_is_valid_and_built_in() {
        let list = Conflist::parse(&list("0123abcd", 7), None).unwrap();
        assert!(list.plugins.iter().all(crate::builtin::has));
        assert!(bridge("0123abcd").len() <= 15);
    }
}
