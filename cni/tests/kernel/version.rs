//! Configurations and results of every version, by the reference plugins and by scripts that answer as they like.

use std::fs;

use serde_json::{Value, json};

use crate::{
    bridge::{bridge, detach},
    host::{Host, ip, on_a_host},
    program::RECORDING,
};

/// Keeps each configuration that it is given in `<name>.<command>`, and answers an ADD with `answer`.
fn answering(host: &Host, name: &str, answer: &str) {
    let script = format!(
        r#"cat > "$0.$CNI_COMMAND"
        [ "$CNI_COMMAND" != ADD ] || cat <<'END'
{answer}
END"#
    );
    host.script(name, &script);
}

fn given(host: &Host, name: &str, command: &str) -> Value {
    let file = host.dir.path().join(format!("bin/{name}.{command}"));
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// Writes the configuration as it is.
fn write(host: &Host, file: &str, text: &Value) {
    fs::write(host.dir.path().join("net.d").join(file), text.to_string()).unwrap();
}

fn list(version: Option<&str>, plugins: &Value) -> Value {
    let mut list = json!({ "name": "net", "plugins": plugins });
    if let Some(version) = version {
        list["cniVersion"] = json!(version);
    }
    list
}

#[test]
fn lists_of_old_versions_run_with_the_reference_plugins() {
    for version in [
        None,
        Some("0.1.0"),
        Some("0.2.0"),
        Some("0.3.1"),
        Some("0.4.0"),
        Some("1.0.0"),
    ] {
        on_a_host(|host| {
            let mut plugins = bridge(json!([[{ "subnet": "10.9.0.0/24" }]]));
            plugins[0]["ipam"]["dataDir"] = json!(host.dir.path().join("networks"));
            let recording = json!({ "type": "recording" });
            let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
            plugins.as_array_mut().unwrap().extend([portmap, recording]);
            host.script("recording", RECORDING);
            write(host, "10-net.conflist", &list(version, &plugins));
            for builtin in [true, false] {
                let cni = corten_cni::Cni::new(corten_cni::Options {
                    builtin,
                    ..host.options()
                });
                let name = format!("{builtin:a<16}");
                let (pod, attached) = host.attach(&cni, &name, &[]);
                let want = if builtin { "10.9.0.2" } else { "10.9.0.3" };
                assert_eq!(attached.ips, [ip(want)], "{version:?} {builtin}");
                let server = pod.listen("0.0.0.0:80");
                server.answer((ip(want), 80));
                detach(host, &cni, &pod);
                host.wait(cni.wait_idle());
                assert!(host.addresses().is_empty(), "{:?}", host.addresses());
            }
            // The form that the version has, whoever has made the result.
            let log = fs::read_to_string(host.dir.path().join("bin/recording.log")).unwrap();
            let is_single = version.is_none_or(|version| version < "0.3");
            let adds: Vec<_> = log.lines().filter(|line| line.starts_with("ADD")).collect();
            assert_eq!(adds.len(), 2);
            for line in adds {
                assert_eq!(line.contains(r#""ip4""#), is_single, "{version:?}: {line}");
                let want = format!(r#""cniVersion":"{}""#, version.unwrap_or("0.1.0"));
                assert!(line.contains(&want), "{want}: {line}");
            }
        });
    }
}

#[test]
fn a_single_plugin_of_an_old_version_runs() {
    on_a_host(|host| {
        answering(
            host,
            "old",
            r#"{ "ip4": { "ip": "10.1.2.3/24", "gateway": "10.1.2.1" } }"#,
        );
        write(
            host,
            "10-net.conf",
            &json!({ "name": "net", "type": "old" }),
        );
        let cni = corten_cni::Cni::new(host.options());
        let (pod, attached) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        assert_eq!(attached.ips, [ip("10.1.2.3")]);
        assert_eq!(given(host, "old", "ADD")["cniVersion"], "0.1.0");
        detach(host, &cni, &pod);
        // These versions have no prevResult at DEL (CNI spec 0.4.0 brought it).
        assert!(given(host, "old", "DEL")["prevResult"].is_null());
    });
}

#[test]
fn a_plugin_that_answers_in_another_version_is_understood_by_all() {
    let answers = [
        r#"{ "cniVersion": "0.2.0", "ip4": { "ip": "10.1.2.3/24" }, "ip6": { "ip": "fd00::3/64" } }"#,
        r#"{ "cniVersion": "0.3.1", "ips": [{ "version": "4", "address": "10.1.2.3/24" },
                                            { "version": "6", "address": "fd00::3/64" }] }"#,
        r#"{ "cniVersion": "1.1.0", "ips": [{ "address": "10.1.2.3/24" }, { "address": "fd00::3/64" }] }"#,
        r#"{ "ips": [{ "address": "10.1.2.3/24" }, { "address": "fd00::3/64" }] }"#,
    ];
    for answer in answers {
        for version in ["0.4.0", "1.0.0"] {
            on_a_host(|host| {
                answering(host, "first", answer);
                host.script("second", r#"cat > "$0.$CNI_COMMAND""#);
                let plugins = json!([{ "type": "first" }, { "type": "second" }]);
                write(host, "10-net.conflist", &list(Some(version), &plugins));
                let cni = corten_cni::Cni::new(host.options());
                let (pod, attached) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
                assert_eq!(attached.ips, [ip("10.1.2.3"), ip("fd00::3")], "{answer}");
                detach(host, &cni, &pod);
                for command in ["ADD", "DEL"] {
                    let previous = &given(host, "second", command)["prevResult"];
                    assert_eq!(previous["cniVersion"], *version, "{previous}");
                    assert_eq!(previous["ips"][1]["address"], "fd00::3/64", "{previous}");
                    let is_marked = previous["ips"][1]["version"] == "6";
                    assert_eq!(is_marked, version == "0.4.0", "{previous}");
                }
            });
        }
    }
}

/// What plugins have been reported to answer, and what addresses a pod then has.
#[test]
fn odd_answers_give_the_pods_addresses() {
    for (answer, want) in [
        (
            r#"{ "interfaces": [null], "ips": [{ "address": "10.1.2.3/24" }] }"#,
            &["10.1.2.3"][..],
        ),
        // An interface of another name, or without a sandbox.
        (
            r#"{ "interfaces": [{ "name": "cali0123", "sandbox": "/x" }], "ips": [{ "address": "10.1.2.3/32", "interface": 0 }] }"#,
            &["10.1.2.3"],
        ),
        (
            r#"{ "interfaces": [{ "name": "eth0" }], "ips": [{ "address": "10.1.2.3/32", "interface": 0 }] }"#,
            &["10.1.2.3"],
        ),
        // The host's end has an address, too.
        (
            r#"{ "interfaces": [{ "name": "br0" }, { "name": "eth0", "sandbox": "/x" }],
              "ips": [{ "address": "10.1.2.1/24", "interface": 0 }, { "address": "10.1.2.3/24", "interface": 1 }] }"#,
            &["10.1.2.3"],
        ),
        (
            r#"{ "ips": [{ "address": "10.1.2.3/32", "interface": 0, "gateway": null }], "interfaces": null, "dns": null }"#,
            &["10.1.2.3"],
        ),
        (r#"{ "ips": [{ "address": "fd00::3/128" }] }"#, &["fd00::3"]),
        (
            r#"{ "ips": [{ "address": "fd00::3/64" }, { "address": "10.1.2.3/24" }], "dns": { "nameservers": ["10.0.0.1"] } }"#,
            &["fd00::3", "10.1.2.3"],
        ),
    ] {
        on_a_host(|host| {
            answering(host, "odd", answer);
            let cni = host.network(json!([{ "type": "odd" }]));
            let (pod, attached) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
            let want: Vec<_> = want.iter().map(|text| ip(text)).collect();
            assert_eq!(attached.ips, want, "{answer}");
            detach(host, &cni, &pod);
        });
    }
}

#[test]
fn a_network_of_ipv6_alone_works() {
    on_a_host(|host| {
        let mut plugins = bridge(json!([[{ "subnet": "fd09::/64" }]]));
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        plugins.as_array_mut().unwrap().push(portmap);
        let cni = host.network(plugins);
        let (pod, attached) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        assert_eq!(attached.ips, [ip("fd09::2")]);
        pod.listen("[::]:80").answer((ip("fd09::2"), 80));
        detach(host, &cni, &pod);
        host.wait(cni.wait_idle());
        assert!(host.addresses().is_empty(), "{:?}", host.addresses());
    });
}

#[test]
fn a_result_without_addresses_fails_and_is_undone() {
    for (answer, words) in [
        (
            r#"{ "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0" }] }"#,
            "no address",
        ),
        (r#"{ "cniVersion": "1.0.0", "ips": [] }"#, "no address"),
        // An error that is told with exit code 0.
        (
            r#"{ "code": 11, "msg": "try again later" }"#,
            "try again later",
        ),
        (
            r#"{ "cniVersion": "1.0.0", "ips": [{ "address": "10.1.2.3" }] }"#,
            "ips[0].address",
        ),
        (r#"{ "cniVersion": "7.0.0" }"#, "7.0.0"),
        ("", "no address"),
        ("null", "no address"),
        ("{", "not JSON"),
    ] {
        on_a_host(|host| {
            answering(host, "last", answer);
            let cni = host.network(json!([{ "type": "last" }]));
            let pod = host.pod("aaaaaaaaaaaaaaaa");
            let added = host.wait(cni.add(pod.attachment.clone()));
            let told = added.unwrap_err().to_string();
            assert!(told.contains(words), "{answer}: {told}");
            given(host, "last", "DEL");
            assert_eq!(host.cached(), 0);
        });
    }
}

/// A chained plugin that drops what the bridge has got.
#[test]
fn a_lost_address_is_free_again() {
    on_a_host(|host| {
        let mut plugins =
            bridge(json!([[{ "subnet": "10.9.0.0/24" }], [{ "subnet": "fd09::/64" }]]));
        plugins
            .as_array_mut()
            .unwrap()
            .push(json!({ "type": "careless" }));
        answering(host, "careless", r#"{ "cniVersion": "1.0.0" }"#);
        let cni = host.network(plugins);
        let pod = host.pod("aaaaaaaaaaaaaaaa");
        let added = host.wait(cni.add(pod.attachment.clone()));
        assert!(added.unwrap_err().to_string().contains("no address"));
        host.wait(cni.wait_idle());
        assert!(host.addresses().is_empty(), "{:?}", host.addresses());
        // One of two is lost, and both are given back.
        answering(
            host,
            "careless",
            r#"{ "cniVersion": "1.0.0", "ips": [{ "address": "10.9.0.3/24" }] }"#,
        );
        let (pod, attached) = host.attach(&cni, "bbbbbbbbbbbbbbbb", &[]);
        assert_eq!(attached.ips, [ip("10.9.0.3")]);
        assert_eq!(host.addresses().len(), 2);
        detach(host, &cni, &pod);
        host.wait(cni.wait_idle());
        assert!(host.addresses().is_empty(), "{:?}", host.addresses());
    });
}
