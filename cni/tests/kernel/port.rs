//! Host ports.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use corten_cni::{Cni, PortMapping, Protocol};
use serde_json::{Value, json};

use crate::{
    bridge::{bridge, detach, nothing_is_left},
    host::{Host, elements, ip, on_a_host, run},
};

fn network(host: &Host) -> Cni {
    let mut plugins = bridge(json!([[{ "subnet": "10.9.0.0/24" }], [{ "subnet": "fd09::/64" }]]));
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    plugins.as_array_mut().unwrap().push(portmap);
    host.network(plugins)
}

fn port(protocol: Protocol, host_port: u16, host_ip: Option<IpAddr>) -> PortMapping {
    PortMapping {
        protocol,
        container_port: 80,
        host_port,
        host_ip,
    }
}

#[test]
fn a_host_port_answers_from_everywhere() {
    on_a_host(|host| {
        let cni = network(host);
        let neighbour = host.neighbour();
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[port(Protocol::Tcp, 8080, None)]);
        let (b, _) = host.attach(&cni, "bbbbbbbbbbbbbbbb", &[]);
        let server = a.listen("[::]:80");
        server.answer((ip("127.0.0.1"), 8080));
        server.answer((ip("192.0.2.1"), 8080));
        // From outside, the client's address is seen.
        assert_eq!(
            neighbour.inside(|| server.answer((ip("192.0.2.1"), 8080))),
            ip("::ffff:192.0.2.2")
        );
        b.inside(|| server.answer((ip("10.9.0.1"), 8080)));
        b.inside(|| server.answer((ip("192.0.2.1"), 8080)));
        a.inside(|| server.answer((ip("10.9.0.1"), 8080)));
        a.inside(|| server.answer((ip("fd09::1"), 8080)));
        detach(host, &cni, &a);
        assert!(server.try_answer((ip("127.0.0.1"), 8080)).is_err());
        assert!(!elements().contains("8080"), "{}", elements());
        detach(host, &cni, &b);
        nothing_is_left(host, &cni);
    });
}

#[test]
fn a_host_port_of_one_address_answers_there_alone() {
    on_a_host(|host| {
        let cni = network(host);
        let neighbour = host.neighbour();
        let here = Some(ip("127.0.0.1"));
        let there = Some(ip("192.0.2.1"));
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[port(Protocol::Tcp, 8080, here)]);
        let (b, _) = host.attach(
            &cni,
            "bbbbbbbbbbbbbbbb",
            &[port(Protocol::Tcp, 8080, there)],
        );
        let (first, second) = (a.listen("[::]:80"), b.listen("[::]:80"));
        first.answer((ip("127.0.0.1"), 8080));
        neighbour.inside(|| second.answer((ip("192.0.2.1"), 8080)));
        detach(host, &cni, &b);
        assert!(
            neighbour
                .inside(|| second.try_answer((ip("192.0.2.1"), 8080)))
                .is_err()
        );
        first.answer((ip("127.0.0.1"), 8080));
    });
}

#[test]
fn a_port_that_is_taken_stays_with_its_pod() {
    on_a_host(|host| {
        let cni = network(host);
        let ports = [port(Protocol::Tcp, 8080, None)];
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &ports);
        let mut b = host.pod("bbbbbbbbbbbbbbbb");
        b.attachment.port_mappings = ports.to_vec();
        let error = host
            .wait(cni.add(b.attachment.clone()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("8080/tcp") && error.contains("another pod"),
            "{error}"
        );
        detach(host, &cni, &b);
        host.wait(cni.wait_idle());
        assert_eq!(host.addresses().len(), 2, "both families of the first pod");
        a.listen("[::]:80").answer((ip("127.0.0.1"), 8080));
    });
}

/// A service that somebody else translates shows the client's address.
#[test]
fn services_are_left_alone() {
    on_a_host(|host| {
        let cni = network(host);
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        let mut second = bridge(json!([[{ "subnet": "10.10.0.0/24" }]]));
        second[0]["bridge"] = json!("br1");
        host.configure(second);
        let (b, _) = host.attach(&cni, "bbbbbbbbbbbbbbbb", &[]);
        run("nft", &["add table ip other; add chain ip other pre { type nat hook prerouting priority -90; };
                      add rule ip other pre ip daddr 10.96.0.1 tcp dport 80 dnat to 10.10.0.2:80"]);
        let server = b.listen("0.0.0.0:80");
        assert_eq!(
            a.inside(|| server.answer((ip("10.96.0.1"), 80))),
            ip("10.9.0.2")
        );
    });
}

/// A flow that the kernel remembers must not lead to the pod that is gone, or to nobody.
#[test]
fn datagrams_reach_the_pod_that_is_there() {
    on_a_host(|host| {
        let cni = network(host);
        let neighbour = host.neighbour();
        let client = neighbour.inside(|| UdpSocket::bind("192.0.2.2:5000").unwrap());
        client
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        // Before there is a pod, the host itself is asked.
        client.send_to(b"nobody", "192.0.2.1:5353").unwrap();
        for name in ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"] {
            let (pod, _) = host.attach(&cni, name, &[port(Protocol::Udp, 5353, None)]);
            let server = pod.inside(|| UdpSocket::bind("0.0.0.0:80").unwrap());
            server
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            client.send_to(name.as_bytes(), "192.0.2.1:5353").unwrap();
            let mut buffer = [0; 64];
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], name.as_bytes());
            server.send_to(b"pong", from).unwrap();
            let (length, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(
                (&buffer[..length], from),
                (&b"pong"[..], "192.0.2.1:5353".parse().unwrap())
            );
            detach(host, &cni, &pod);
        }
    });
}

#[test]
fn a_mapping_without_the_capability_is_left_out() {
    on_a_host(|host| {
        let mut plugins = bridge(json!([[{ "subnet": "10.9.0.0/24" }]]));
        plugins
            .as_array_mut()
            .unwrap()
            .push(json!({ "type": "portmap" }));
        let cni = host.network(plugins);
        let (a, attached) =
            host.attach(&cni, "aaaaaaaaaaaaaaaa", &[port(Protocol::Tcp, 8080, None)]);
        assert!(attached.result["ips"].is_array(), "{}", attached.result);
        assert!(
            a.listen("[::]:80")
                .try_answer((ip("127.0.0.1"), 8080))
                .is_err()
        );
        let _: Value = attached.result;
    });
}
