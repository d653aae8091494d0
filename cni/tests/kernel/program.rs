//! Plugins that are programs: the reference plugins of Debian's containernetworking-plugins, and scripts.

use std::{
    fs,
    time::{Duration, Instant},
};

use corten_cni::Cni;
use serde_json::{Value, json};

use crate::{
    bridge::{bridge, detach},
    host::{Host, ip, links, on_a_host, run},
};

pub(crate) const RECORDING: &str =
    r#"printf '%s %s %s %s\n' "$CNI_COMMAND" "$CNI_NETNS" "$CNI_ARGS" "$(cat)" >> "$0.log""#;

#[test]
fn a_failing_plugin_is_quoted_and_all_is_undone() {
    on_a_host(|host| {
        let mut plugins = bridge(json!([[{ "subnet": "10.9.0.0/24" }]]));
        plugins
            .as_array_mut()
            .unwrap()
            .push(json!({ "type": "failing" }));
        host.script(
            "failing",
            r#"
            cat > /dev/null
            echo "first words" >&2
            [ "$CNI_COMMAND" = ADD ] || exit 0
            echo '{ "code": 11, "msg": "the sky fell", "details": "twice" }'
            exit 1"#,
        );
        let cni = host.network(plugins);
        let pod = host.pod("aaaaaaaaaaaaaaaa");
        let error = host
            .wait(cni.add(pod.attachment.clone()))
            .unwrap_err()
            .to_string();
        for word in [
            "failing",
            "ADD",
            "11",
            "the sky fell",
            "twice",
            "first words",
        ] {
            assert!(error.contains(word), "{word}: {error}");
        }
        host.wait(cni.wait_idle());
        assert!(host.addresses().is_empty());
        assert_eq!(host.cached(), 0);
        assert!(
            !links().iter().any(|name| name.starts_with("veth")),
            "{:?}",
            links()
        );
    });
}

#[test]
fn a_hanging_plugin_is_killed_with_what_it_started() {
    on_a_host(|host| {
        host.script(
            "hanging",
            r#"
            [ "$CNI_COMMAND" = ADD ] || exit 0
            sleep 600 &
            echo $! > "$0.pid"
            wait"#,
        );
        host.configure(json!([{ "type": "hanging" }]));
        let mut options = host.options();
        options.timeout = Duration::from_millis(500);
        let cni = Cni::new(options);
        let pod = host.pod("aaaaaaaaaaaaaaaa");
        let begun = Instant::now();
        let error = host
            .wait(cni.add(pod.attachment.clone()))
            .unwrap_err()
            .to_string();
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(
            error.contains("hanging") && error.contains("500ms"),
            "{error}"
        );
        let pid = fs::read_to_string(host.dir.path().join("bin/hanging.pid")).unwrap();
        crate::host::until("the plugin's child is gone", || {
            let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            state.map_or(true, |state| state.contains(" Z "))
        });
        assert_eq!(host.cached(), 0);
    });
}

#[test]
fn a_plugin_gets_what_the_specification_says() {
    on_a_host(|host| {
        host.script(
            "first",
            &format!(
                r#"{RECORDING}
            [ "$CNI_COMMAND" = ADD ] || exit 0
            echo '{{ "cniVersion": "1.0.0", "ips": [{{ "address": "10.1.2.3/24" }}] }}'"#
            ),
        );
        host.script(
            "second",
            &format!(
                r#"{RECORDING}
            [ "$CNI_COMMAND" = ADD ] || exit 0
            echo '{{ "cniVersion": "1.0.0", "ips": [{{ "address": "10.1.2.4/24" }}] }}'"#
            ),
        );
        let cni = host.network(json!([{ "type": "first", "key": 7 }, { "type": "second", "capabilities": { "ipRanges": true } }]));
        cni.set_pod_cidrs(vec!["10.7.0.0/24".into()]);
        let (pod, attached) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        assert_eq!(attached.ips, [ip("10.1.2.4")]);
        // The configuration of the day does not count, but that of the attachment.
        host.configure(json!([{ "type": "other" }]));
        pod.end();
        detach(host, &cni, &pod);
        let log = |name: &str| {
            fs::read_to_string(host.dir.path().join(format!("bin/{name}.log"))).unwrap()
        };
        let (first, second) = (log("first"), log("second"));
        let netns = pod.netns().display().to_string();
        assert!(
            first.starts_with(&format!(
                "ADD {netns} IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod;\
            K8S_POD_INFRA_CONTAINER_ID=aaaaaaaaaaaaaaaa;K8S_POD_UID=uid {{"
            )),
            "{first}"
        );
        for part in [r#""name":"net""#, r#""cniVersion":"1.0.0""#, r#""key":7"#] {
            assert!(first.contains(part), "{part}: {first}");
        }
        assert!(!first.lines().next().unwrap().contains("prevResult"));
        assert!(
            second
                .lines()
                .next()
                .unwrap()
                .contains(r#""address":"10.1.2.3/24""#),
            "{second}"
        );
        assert!(
            second.contains(r#""runtimeConfig":{"ipRanges":[[{"subnet":"10.7.0.0/24"}]]}"#),
            "{second}"
        );
        // Without a namespace, with the result of the whole.
        assert!(
            first.lines().nth(1).unwrap().starts_with("DEL  Ignore"),
            "{first}"
        );
        assert!(
            first
                .lines()
                .nth(1)
                .unwrap()
                .contains(r#""address":"10.1.2.4/24""#),
            "{first}"
        );
    });
}

#[test]
fn a_macvlan_pod_is_reached_by_a_neighbour() {
    on_a_host(|host| {
        let neighbour = host.neighbour();
        let cni = host.network(json!([{
            "type": "macvlan", "master": "out", "mode": "bridge",
            "ipam": { "type": "host-local", "dataDir": host.dir.path().join("networks"),
                      "ranges": [[{ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.50" }]] },
        }]));
        let (pod, attached) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        assert_eq!(attached.ips, [ip("192.0.2.50")]);
        let server = pod.listen("0.0.0.0:80");
        assert_eq!(
            neighbour.inside(|| server.answer((ip("192.0.2.50"), 80))),
            ip("192.0.2.2")
        );
        detach(host, &cni, &pod);
        assert!(host.addresses().is_empty());
    });
}

#[test]
fn the_reference_bridge_and_ours_go_on_where_the_other_stopped() {
    on_a_host(|host| {
        let mut plugins = bridge(json!([[{ "subnet": "10.9.0.0/24" }]]));
        plugins[0]["ipam"]["dataDir"] = json!(host.dir.path().join("networks"));
        host.configure(plugins);
        let programs = Cni::new(corten_cni::Options {
            builtin: false,
            ..host.options()
        });
        let ours = Cni::new(host.options());
        let (a, first) = host.attach(&programs, "aaaaaaaaaaaaaaaa", &[]);
        let (b, second) = host.attach(&ours, "bbbbbbbbbbbbbbbb", &[]);
        assert_eq!(
            (&first.ips[..], &second.ips[..]),
            (&[ip("10.9.0.2")][..], &[ip("10.9.0.3")][..])
        );
        let server = b.listen("0.0.0.0:80");
        assert_eq!(
            a.inside(|| server.answer((ip("10.9.0.3"), 80))),
            ip("10.9.0.2")
        );
        let (c, third) = host.attach(&programs, "cccccccccccccccc", &[]);
        assert_eq!(third.ips, [ip("10.9.0.4")]);
        // Whoever has attached a pod detaches it, whatever the options say since.
        detach(host, &ours, &a);
        detach(host, &ours, &c);
        detach(host, &programs, &b);
        host.wait(programs.wait_idle());
        host.wait(ours.wait_idle());
        assert!(host.addresses().is_empty(), "{:?}", host.addresses());
    });
}

#[test]
fn a_configuration_with_a_key_that_is_not_built_in_goes_to_the_program() {
    on_a_host(|host| {
        let mut plugins = bridge(json!([[{ "subnet": "10.9.0.0/24" }]]));
        plugins[0]["promiscMode"] = json!(true);
        plugins[0]["hairpinMode"] = json!(false);
        plugins[0]["ipam"]["dataDir"] = json!(host.dir.path().join("networks"));
        let cni = host.network(plugins);
        host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        assert!(run("ip", &["-d", "link", "show", "br0"]).contains("promiscuity 1"));
    });
}

#[test]
fn programs_go_on_from_what_is_built_in() {
    on_a_host(|host| {
        let mut plugins = bridge(json!([[{ "subnet": "10.9.0.0/24" }]]));
        let tuning =
            json!({ "type": "tuning", "mtu": 1400, "sysctl": { "net.core.somaxconn": "77" } });
        plugins.as_array_mut().unwrap().push(tuning);
        let cni = host.network(plugins);
        let (pod, attached) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        assert_eq!(attached.ips, [ip("10.9.0.2")]);
        pod.inside(|| {
            assert_eq!(
                fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(),
                "77\n"
            );
            assert!(run("ip", &["link", "show", "eth0"]).contains("mtu 1400"));
        });
        detach(host, &cni, &pod);
    });
}

#[test]
fn a_missing_plugin_is_told_before_anything_is_made() {
    on_a_host(|host| {
        let cni = host.network(json!([{ "type": "nowhere" }]));
        let told = cni.status().unwrap_err().to_string();
        for word in ["nowhere", "10-net.conflist", "/usr/lib/cni"] {
            assert!(told.contains(word), "{told}");
        }
        let pod = host.pod("aaaaaaaaaaaaaaaa");
        assert!(host.wait(cni.add(pod.attachment.clone())).is_err());
        assert_eq!(host.cached(), 0);
        host.script("nowhere", "exit 0");
        cni.status().unwrap();
    });
}

#[test]
fn addresses_are_freed_by_the_reference_plugin_and_by_ours() {
    on_a_host(|host| {
        let cni = host.network(bridge(json!([[{ "subnet": "10.9.0.0/24" }]])));
        host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        assert_eq!(
            host_local(host, "ADD", "bbbbbbbbbbbbbbbb")["ips"][0]["address"],
            "10.9.0.3/24"
        );
        let (c, third) = host.attach(&cni, "cccccccccccccccc", &[]);
        assert_eq!(third.ips, [ip("10.9.0.4")]);
        host_local(host, "DEL", "aaaaaaaaaaaaaaaa");
        detach(host, &cni, &c);
        host.wait(cni.wait_idle());
        assert_eq!(host.addresses(), ["10.9.0.3"]);
    });
}

/// Runs the reference plugin on this host's state.
fn host_local(host: &Host, command: &str, id: &str) -> Value {
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "none",
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.9.0.0/24" }]],
                  "dataDir": host.dir.path().join("networks") },
    });
    let file = host.dir.path().join("config.json");
    fs::write(&file, config.to_string()).unwrap();
    let script = "CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/none CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni \
                  /usr/lib/cni/host-local < $3";
    let told = run(
        "sh",
        &["-c", script, "sh", command, id, file.to_str().unwrap()],
    );
    serde_json::from_str(&told).unwrap_or_default()
}
