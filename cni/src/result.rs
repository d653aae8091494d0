//! Results of plugins, in the form of every version of the CNI (spec 1.1, section 5, and its predecessors):
//!
//! ```text
//! 0.1.0, 0.2.0       ip4, ip6: { ip, gateway, routes }; dns
//! 0.3.0 to 0.4.0     interfaces; ips: [{ version, address, gateway, interface }]; routes; dns
//! 1.0.0, 1.1.0       the same, without the addresses' version
//! ```
//!
//! A result becomes one of its configuration's version as soon as the plugin has given it: so every later plugin is given a
//! `prevResult` that it understands.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::{attachment::INTERFACE, builtin::parse_network, netlink::Address};

/// Version of a configuration or a result that names none (CNI spec 0.2.0, "Network Configuration").
pub(crate) const UNNAMED: &str = "0.1.0";
/// Oldest first.
pub(crate) const VERSIONS: [&str; 7] = [
    UNNAMED, "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// One address of each family.
    Single,
    /// Addresses with their family.
    Versioned,
    Listed,
}

impl Form {
    fn of(version: &str) -> Option<Self> {
        match VERSIONS.iter().position(|known| *known == version)? {
            ..2 => Some(Self::Single),
            2..5 => Some(Self::Versioned),
            _ => Some(Self::Listed),
        }
    }
}

/// True for versions whose plugins are given the result when they detach: since 0.4.0.
pub(crate) fn is_told_at_del(version: &str) -> bool {
    VERSIONS.iter().position(|known| *known == version) >= Some(4)
}

/// Checks what a plugin has printed and gives it in the form of `version`, the configuration's. A result that names no version
/// is of the configuration's, as older plugins of every version leave it out.
///
/// # Errors
/// Reason for which a result is refused.
pub(crate) fn read(result: Value, version: &str) -> Result<Value, String> {
    let Value::Object(result) = result else {
        return Err("its result is not a JSON object".into());
    };
    let own = match result.get("cniVersion") {
        None | Some(Value::Null) => version,
        Some(Value::String(own)) if own.is_empty() => version,
        Some(Value::String(own)) => own,
        Some(other) => return Err(format!("the cniVersion of its result is {other}")),
    };
    let (from, to) = (Form::of(own), Form::of(version));
    let (Some(from), Some(to)) = (from, to) else {
        let known = VERSIONS.join(", ");
        return Err(format!(
            "its result is of version {own:?}, which is not one of {known}"
        ));
    };
    check(&result, from)?;
    let mut result = match (from, to) {
        (Form::Single, Form::Single) => result,
        (Form::Single, _) => listed(result),
        (_, Form::Single) => single(&result),
        _ => result,
    };
    mark_families(&mut result, to);
    result.insert("cniVersion".into(), json!(version));
    Ok(Value::Object(result))
}

fn check(result: &Map<String, Value>, form: Form) -> Result<(), String> {
    let list = |key: &str| match result.get(key) {
        None | Some(Value::Null) => Ok(&[][..]),
        Some(Value::Array(list)) => Ok(list.as_slice()),
        Some(_) => Err(format!("{key} of its result is not a list")),
    };
    let address = |name: String, value: &Value| match value.as_str().map(parse_network) {
        Some(Ok(_)) => Ok(()),
        _ => Err(format!(
            "{name} of its result is {value}, and not an address such as 10.1.2.3/16"
        )),
    };
    if form == Form::Single {
        let families = ["ip4", "ip6"].map(|key| (key, result.get(key)));
        let there = families
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.filter(|value| !value.is_null())?)));
        for (key, value) in there {
            address(format!("{key}.ip"), &value["ip"])?;
        }
        return Ok(());
    }
    let interfaces = list("interfaces")?.len();
    for (number, entry) in list("ips")?.iter().enumerate() {
        address(format!("ips[{number}].address"), &entry["address"])?;
        let of = &entry["interface"];
        let is_there = of
            .as_u64()
            .and_then(|index| usize::try_from(index).ok())
            .is_some_and(|index| index < interfaces);
        // Some plugins name the interface by its index, and list none.
        if !of.is_null() && !is_there && interfaces > 0 {
            return Err(format!(
                "ips[{number}].interface of its result is {of}, and it has {interfaces} interfaces"
            ));
        }
    }
    Ok(())
}

/// Result with lists, from one with an address of each family.
fn listed(mut result: Map<String, Value>) -> Map<String, Value> {
    let (mut ips, mut routes) = (Vec::new(), Vec::new());
    for key in ["ip4", "ip6"] {
        let Some(Value::Object(mut family)) = result.remove(key) else {
            continue;
        };
        let mut entry = json!({ "address": family.remove("ip") });
        if let Some(gateway) = family.remove("gateway").filter(|value| !value.is_null()) {
            entry["gateway"] = gateway;
        }
        ips.push(entry);
        if let Some(Value::Array(list)) = family.remove("routes") {
            routes.extend(list);
        }
    }
    result.insert("ips".into(), json!(ips));
    result.insert("routes".into(), json!(routes));
    result
}

/// The first address of each family, and the routes of its family. Interfaces have no place there.
fn single(result: &Map<String, Value>) -> Map<String, Value> {
    let list = |key: &str| result.get(key).and_then(Value::as_array);
    let is_v4 = |text: &Value| text.as_str().is_some_and(|text| !text.contains(':'));
    let mut single = Map::new();
    if let Some(dns) = result.get("dns") {
        single.insert("dns".into(), dns.clone());
    }
    for (key, v4) in [("ip4", true), ("ip6", false)] {
        let mut ips = list("ips").into_iter().flatten();
        let Some(first) = ips.find(|entry| is_v4(&entry["address"]) == v4) else {
            continue;
        };
        let mut family = json!({ "ip": first["address"] });
        if !first["gateway"].is_null() {
            family["gateway"] = first["gateway"].clone();
        }
        let routes = list("routes").into_iter().flatten();
        let routes: Vec<_> = routes.filter(|route| is_v4(&route["dst"]) == v4).collect();
        if !routes.is_empty() {
            family["routes"] = json!(routes);
        }
        single.insert(key.into(), family);
    }
    single
}

fn mark_families(result: &mut Map<String, Value>, form: Form) {
    let Some(Value::Array(ips)) = result.get_mut("ips") else {
        return;
    };
    for entry in ips.iter_mut().filter_map(Value::as_object_mut) {
        if form != Form::Versioned {
            entry.remove("version");
        } else if let Some(address) = entry.get("address").and_then(Value::as_str) {
            let version = if address.contains(':') { "6" } else { "4" };
            entry.insert("version".into(), json!(version));
        }
    }
}

/// The pod's addresses in a result of any version: those of its interface, or that name none. A result that gives addresses to
/// other interfaces alone is taken at its word.
pub(crate) fn addresses(result: &Value) -> Vec<Address> {
    let single = ["ip4", "ip6"].map(|key| (&result[key]["ip"], None));
    let ips = result["ips"].as_array().into_iter().flatten();
    let ips = ips.map(|entry| {
        let index = entry["interface"].as_u64();
        let index = index.and_then(|index| usize::try_from(index).ok());
        let name = index.and_then(|index| result["interfaces"][index]["name"].as_str());
        (&entry["address"], name)
    });
    let all: Vec<(Address, Option<&str>)> = single
        .into_iter()
        .chain(ips)
        .filter_map(|(text, name)| Some((parse_network(text.as_str()?).ok()?, name)))
        .collect();
    let is_pods = |name: Option<&str>| name.is_none_or(|name| name == INTERFACE);
    let any = all.iter().any(|(_, name)| is_pods(*name));
    all.into_iter()
        .filter(|(_, name)| !any || is_pods(*name))
        .map(|(address, _)| address)
        .collect()
}

/// Addresses of a result, without their prefixes.
pub(crate) fn ips(result: &Value) -> Vec<IpAddr> {
    addresses(result)
        .into_iter()
        .map(|address| address.ip)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUAL: &str = r#"{
        "interfaces": [{ "name": "br0" }, { "name": "eth0", "sandbox": "/netns" }],
        "ips": [
            { "version": "4", "address": "10.0.0.2/16", "gateway": "10.0.0.1", "interface": 1 },
            { "version": "6", "address": "fd00::2/64", "interface": 1 },
            { "version": "4", "address": "10.0.0.3/16", "interface": 1 }
        ],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "10.0.0.1" }, { "dst": "::/0" }],
        "dns": { "nameservers": ["10.0.0.10"] }
    }"#;

    fn result(text: &str, version: &str) -> Value {
        let mut value: Value = serde_json::from_str(text).unwrap();
        value["cniVersion"] = json!(version);
        value
    }

    fn told(value: &Value) -> Vec<String> {
        ips(value).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_version_becomes_every_other() {
        for from in VERSIONS {
            let given = match Form::of(from).unwrap() {
                Form::Single => json!({
                    "cniVersion": from,
                    "ip4": { "ip": "10.0.0.2/16", "gateway": "10.0.0.1",
                             "routes": [{ "dst": "0.0.0.0/0", "gw": "10.0.0.1" }] },
                    "ip6": { "ip": "fd00::2/64", "routes": [{ "dst": "::/0" }] },
                    "dns": { "nameservers": ["10.0.0.10"] },
                }),
                _ => result(DUAL, from),
            };
            for to in VERSIONS {
                let got = read(given.clone(), to).unwrap();
                assert_eq!(got["cniVersion"], *to);
                assert_eq!(got["dns"]["nameservers"][0], "10.0.0.10", "{from} {to}");
                assert_eq!(told(&got)[..2], ["10.0.0.2", "fd00::2"], "{from} {to}");
                let (form, keys) = (Form::of(to).unwrap(), got.as_object().unwrap());
                if form == Form::Single {
                    assert_eq!(got["ip4"]["routes"][0]["gw"], "10.0.0.1", "{from} {to}");
                    assert_eq!(got["ip6"]["routes"][0]["dst"], "::/0", "{from} {to}");
                    assert_eq!(got["ip6"]["ip"], "fd00::2/64", "{from} {to}");
                    assert!(!keys.contains_key("ips") && !keys.contains_key("interfaces"));
                } else {
                    let families = got["ips"].as_array().unwrap();
                    let marked = families.iter().all(|ip| ip["version"].is_string());
                    assert_eq!(marked, form == Form::Versioned, "{from} {to}");
                    assert_eq!(got["ips"][0]["gateway"], "10.0.0.1", "{from} {to}");
                    assert_eq!(got["routes"].as_array().unwrap().len(), 2, "{from} {to}");
                    assert!(!keys.contains_key("ip4"));
                }
            }
        }
    }

    #[test]
    fn addresses_of_all_versions_are_found() {
        let old = json!({ "ips": [{ "version": "4", "address": "10.0.0.2/16" }, { "address": "fd00::2/64" }] });
        assert_eq!(told(&old), ["10.0.0.2", "fd00::2"]);
        assert!(ips(&json!({})).is_empty());
    }

    #[test]
    fn a_result_without_a_version_is_of_the_configurations() {
        for none in [json!(null), json!("")] {
            let mut given = result(DUAL, "1.0.0");
            given["cniVersion"] = none;
            let got = read(given, "0.4.0").unwrap();
            assert_eq!(got["cniVersion"], "0.4.0");
            assert_eq!(told(&got).len(), 3);
        }
        let old = json!({ "ip4": { "ip": "10.0.0.2/16" } });
        assert_eq!(told(&read(old, UNNAMED).unwrap()), ["10.0.0.2"]);
    }

    #[test]
    fn what_is_no_result_is_told() {
        for (given, word) in [
            (json!([]), "object"),
            (json!({ "cniVersion": 1 }), "cniVersion"),
            (json!({ "cniVersion": "2.0.0" }), "2.0.0"),
            (json!({ "ips": {} }), "list"),
            (json!({ "ips": [{}] }), "ips[0].address"),
            (json!({ "ips": [{ "address": "10.0.0.2" }] }), "10.1.2.3/16"),
            (
                json!({ "interfaces": [{ "name": "eth0" }],
                        "ips": [{ "address": "10.0.0.2/8", "interface": 1 }] }),
                "ips[0].interface",
            ),
            (
                json!({ "cniVersion": "0.2.0", "ip6": { "ip": 7 } }),
                "ip6.ip",
            ),
        ] {
            let told = read(given, "1.0.0").unwrap_err();
            assert!(told.contains(word), "{word}: {told}");
        }
    }

    #[test]
    fn a_pods_addresses_are_those_of_its_interface() {
        let interfaces = json!([{ "name": "br0" }, { "name": "eth0" }, { "name": "net1" }]);
        let ip =
            |address: &str, interface: Value| json!({ "address": address, "interface": interface });
        let with = |ips: Vec<Value>| json!({ "interfaces": interfaces, "ips": ips });
        let mixed = with(vec![
            ip("10.0.0.1/8", json!(0)),
            ip("fd00::2/64", json!(1)),
            ip("10.0.0.3/8", json!(2)),
            ip("10.0.0.2/8", json!(null)),
        ]);
        assert_eq!(told(&mixed), ["fd00::2", "10.0.0.2"]);
        assert_eq!(told(&with(vec![ip("10.0.0.3/8", json!(2))])), ["10.0.0.3"]);
    }
}
