//! The built-in bridge.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{Host, Pod, Server, elements, ip, links, on_a_host, run};

/// A bridge with these addresses to give.
pub(crate) fn bridge(ranges: Value) -> Value {
    json!([{
        "type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": { "type": "host-local", "ranges": ranges },
    }])
}

fn usual() -> Value {
    bridge(json!([[{ "subnet": "10.9.0.0/24" }]]))
}

#[test]
fn pods_and_the_host_reach_each_other() {
    on_a_host(|host| {
        let cni = host.network(usual());
        let (a, first) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        let (b, second) = host.attach(&cni, "bbbbbbbbbbbbbbbb", &[]);
        assert_eq!(
            (&first.ips[..], &second.ips[..]),
            (&[ip("10.9.0.2")][..], &[ip("10.9.0.3")][..])
        );
        let server = b.listen("0.0.0.0:80");
        assert_eq!(server.answer((ip("10.9.0.3"), 80)), ip("10.9.0.1"));
        assert_eq!(
            a.inside(|| server.answer((ip("10.9.0.3"), 80))),
            ip("10.9.0.2")
        );
        let on_host = Server::new("10.9.0.1:0");
        assert_eq!(
            a.inside(|| on_host.answer((ip("10.9.0.1"), on_host.port()))),
            ip("10.9.0.2")
        );
        let own = a.listen("127.0.0.1:0");
        a.inside(|| own.answer((ip("127.0.0.1"), own.port())));
    });
}

#[test]
fn a_pod_leaves_under_the_hosts_address() {
    on_a_host(|host| {
        let cni = host.network(usual());
        let neighbour = host.neighbour();
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        let server = neighbour.listen("0.0.0.0:80");
        assert_eq!(
            a.inside(|| server.answer((ip("192.0.2.2"), 80))),
            ip("192.0.2.1")
        );
    });
}

#[test]
fn both_families_work() {
    on_a_host(|host| {
        let cni = host.network(bridge(
            json!([[{ "subnet": "10.9.0.0/24" }], [{ "subnet": "fd09::/64" }]]),
        ));
        let (a, first) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        let (b, _) = host.attach(&cni, "bbbbbbbbbbbbbbbb", &[]);
        assert_eq!(first.ips, [ip("10.9.0.2"), ip("fd09::2")]);
        let server = b.listen("[::]:80");
        assert_eq!(
            a.inside(|| server.answer((ip("fd09::3"), 80))),
            ip("fd09::2")
        );
        assert_eq!(server.answer((ip("fd09::3"), 80)), ip("fd09::1"));
    });
}

#[test]
fn a_second_del_succeeds_and_nothing_is_left() {
    on_a_host(|host| {
        let cni = host.network(usual());
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        assert_eq!(
            (links().len(), host.addresses().len(), host.cached()),
            (3, 1, 1)
        );
        assert!(elements().contains("10.9.0.2"), "{}", elements());
        detach(host, &cni, &a);
        detach(host, &cni, &a);
        nothing_is_left(host, &cni);
        host.wait(cni.cleanup());
        assert_eq!(run("nft", &["list", "tables"]), "");
    });
}

#[test]
fn a_pod_whose_namespace_is_gone_is_detached() {
    on_a_host(|host| {
        let cni = host.network(usual());
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        a.end();
        detach(host, &cni, &a);
        nothing_is_left(host, &cni);
    });
}

/// Neighbours keep an address's hardware address for a minute.
#[test]
fn an_address_that_is_used_again_is_reached_at_once() {
    on_a_host(|host| {
        let two = json!([[{ "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.8", "rangeEnd": "10.9.0.9" }]]);
        let cni = host.network(bridge(two));
        // Without a port the bridge goes down, and the host forgets its neighbours.
        host.attach(&cni, "0000000000000000", &[]);
        for name in ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"] {
            let (pod, _) = host.attach(&cni, name, &[]);
            assert!(answers_soon(&pod, "10.9.0.9"), "{name}");
            detach(host, &cni, &pod);
        }
    });
}

/// A bridge and its port lose what comes before they are up, and ARP asks again after a second.
#[test]
fn the_first_packet_arrives() {
    on_a_host(|host| {
        let cni = host.network(usual());
        for number in 0..150 {
            let (pod, attached) = host.attach(&cni, &format!("{number:x<16}"), &[]);
            assert!(answers_soon(&pod, &attached.ips[0].to_string()), "{number}");
            detach(host, &cni, &pod);
        }
    });
}

fn answers_soon(pod: &Pod, address: &str) -> bool {
    let server = pod.listen("0.0.0.0:80");
    let begun = Instant::now();
    server.try_answer((ip(address), 80)).is_ok() && begun.elapsed() < Duration::from_millis(900)
}

/// Else the bridge takes over its ports' addresses, and pods lose their gateway when a port goes.
#[test]
fn the_bridge_keeps_its_hardware_address() {
    on_a_host(|host| {
        let cni = host.network(usual());
        let mac = || {
            run("ip", &["-br", "link", "show", "br0"])
                .split_whitespace()
                .nth(2)
                .unwrap()
                .to_owned()
        };
        let attach = |number: char| host.attach(&cni, &number.to_string().repeat(16), &[]).0;
        let pods = ('0'..='7').map(attach).collect::<Vec<_>>();
        assert_eq!(mac(), "0a:58:0a:09:00:01");
        for pod in pods {
            detach(host, &cni, &pod);
            host.wait(cni.wait_idle());
            assert_eq!(mac(), "0a:58:0a:09:00:01");
        }
    });
}

#[track_caller]
pub(crate) fn detach(host: &Host, cni: &corten_cni::Cni, pod: &Pod) {
    host.wait(cni.del(pod.attachment.clone())).unwrap();
}

#[track_caller]
pub(crate) fn nothing_is_left(host: &Host, cni: &corten_cni::Cni) {
    host.wait(cni.wait_idle());
    assert!(host.addresses().is_empty(), "{:?}", host.addresses());
    assert_eq!(host.cached(), 0);
    assert!(
        !links().iter().any(|name| name.starts_with("veth")),
        "{:?}",
        links()
    );
    assert!(!elements().contains("10.9.0.2"), "{}", elements());
}
