//! What happens to networks when daemons come and go.

use std::fs;

use corten_cni::{Cni, Options, PortMapping, Protocol};
use serde_json::json;

use crate::{
    bridge::{bridge, detach, nothing_is_left},
    host::{INSTANCE, elements, ip, links, on_a_host, run, until},
};

/// A bridge with host ports.
fn plugins() -> serde_json::Value {
    let mut plugins = bridge(json!([[{ "subnet": "10.9.0.0/24" }]]));
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    plugins.as_array_mut().unwrap().push(portmap);
    plugins
}

const PORT: PortMapping = PortMapping {
    protocol: Protocol::Tcp,
    container_port: 80,
    host_port: 8080,
    host_ip: None,
};

/// The first change of a new daemon makes the table anew, of the pods that are attached.
#[test]
fn a_new_daemon_knows_the_pods_and_nothing_else() {
    on_a_host(|host| {
        let cni = host.network(plugins());
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[PORT]);
        let table = format!("inet corten_{INSTANCE}");
        run(
            "nft",
            &[&format!(
                "add element {table} ports4 {{ tcp . 9 : 10.9.0.77 . 9 }}"
            )],
        );
        drop(cni);
        let cni = Cni::new(host.options());
        let (b, _) = host.attach(&cni, "bbbbbbbbbbbbbbbb", &[]);
        assert!(!elements().contains("10.9.0.77"), "{}", elements());
        let server = a.listen("0.0.0.0:80");
        server.answer((ip("127.0.0.1"), 8080));
        b.inside(|| server.answer((ip("10.9.0.1"), 8080)));
        detach(host, &cni, &a);
        detach(host, &cni, &b);
        nothing_is_left(host, &cni);
    });
}

/// A firewall that starts anew flushes everybody's tables.
#[test]
fn a_table_that_somebody_took_away_comes_back_with_the_next_pod() {
    on_a_host(|host| {
        let cni = host.network(plugins());
        let neighbour = host.neighbour();
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[PORT]);
        run("nft", &["flush", "ruleset"]);
        host.attach(&cni, "bbbbbbbbbbbbbbbb", &[]);
        a.listen("0.0.0.0:80").answer((ip("127.0.0.1"), 8080));
        let server = neighbour.listen("0.0.0.0:80");
        assert_eq!(
            a.inside(|| server.answer((ip("192.0.2.2"), 80))),
            ip("192.0.2.1")
        );
        run("nft", &["flush", "ruleset"]);
        detach(host, &cni, &a);
    });
}

/// The daemon is killed after DEL has answered, and before the link is gone.
#[test]
fn a_new_daemon_goes_on_with_what_was_leaving() {
    on_a_host(|host| {
        let cni = host.network(plugins());
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[PORT]);
        let cache = host.dir.path().join("cache");
        let entry = fs::read(cache.join("aaaaaaaaaaaaaaaa.json")).unwrap();
        detach(host, &cni, &a);
        host.wait(cni.wait_idle());
        drop(cni);
        // As it was before: the mark, the address, the link.
        fs::write(cache.join("aaaaaaaaaaaaaaaa.leaving"), entry).unwrap();
        fs::write(
            host.dir.path().join("networks/net/10.9.0.2"),
            "aaaaaaaaaaaaaaaa\r\neth0",
        )
        .unwrap();
        run(
            "ip",
            &[
                "link",
                "add",
                "vethaaaaaaaaaaa",
                "type",
                "veth",
                "peer",
                "name",
                "other",
            ],
        );
        let cni = Cni::new(host.options());
        until("nothing is left", || {
            host.addresses().is_empty() && host.cached() == 0
        });
        assert!(!links().contains(&"vethaaaaaaaaaaa".to_owned()));
        drop(cni);
    });
}

/// A kill in the middle of ADD: the intent is there, the result is not.
#[test]
fn what_was_begun_is_undone() {
    on_a_host(|host| {
        let cni = host.network(plugins());
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[PORT]);
        let file = host.dir.path().join("cache/aaaaaaaaaaaaaaaa.json");
        let mut entry: serde_json::Value =
            serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        entry["result"] = json!(null);
        fs::write(&file, entry.to_string()).unwrap();
        drop(cni);
        let cni = Cni::new(host.options());
        detach(host, &cni, &a);
        nothing_is_left(host, &cni);
        assert!(!elements().contains("8080"), "{}", elements());
    });
}

#[test]
fn a_broken_entry_does_not_keep_the_pod() {
    on_a_host(|host| {
        let cni = host.network(plugins());
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        fs::write(host.dir.path().join("cache/aaaaaaaaaaaaaaaa.json"), "{").unwrap();
        detach(host, &cni, &a);
        nothing_is_left(host, &cni);
    });
}

#[test]
fn many_pods_come_and_go_at_once() {
    on_a_host(|host| {
        let cni = host.network(plugins());
        let pods: Vec<_> = (0..40)
            .map(|number| host.pod(&format!("{number:x<16}")))
            .collect();
        let all = |work: &dyn Fn(&crate::host::Pod) -> tokio::task::JoinHandle<()>| {
            let tasks: Vec<_> = pods.iter().map(work).collect();
            for task in tasks {
                host.wait(task).unwrap();
            }
        };
        all(&|pod| {
            let (cni, attachment) = (cni.clone(), pod.attachment.clone());
            host.spawn(async move { drop(cni.add(attachment).await.unwrap()) })
        });
        assert_eq!(host.addresses().len(), pods.len());
        for pod in &pods {
            let address = fs::read_to_string(
                host.dir
                    .path()
                    .join("cache")
                    .join(format!("{}.json", pod.attachment.container_id)),
            )
            .unwrap();
            let entry: serde_json::Value = serde_json::from_str(&address).unwrap();
            let address = entry["result"]["ips"][0]["address"]
                .as_str()
                .unwrap()
                .trim_end_matches("/24")
                .to_owned();
            pod.listen("0.0.0.0:80").answer((ip(&address), 80));
        }
        all(&|pod| {
            let (cni, attachment) = (cni.clone(), pod.attachment.clone());
            host.spawn(async move { cni.del(attachment).await.unwrap() })
        });
        nothing_is_left(host, &cni);
    });
}

#[test]
fn the_embedded_network_needs_no_file_and_leaves_none() {
    on_a_host(|host| {
        let before = links();
        let cni = Cni::new(Options {
            dev_network: true,
            ..host.options()
        });
        assert_eq!(cni.status().unwrap().name, "corten-dev");
        let (a, attached) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        let server = a.listen("0.0.0.0:80");
        server.answer((attached.ips[0], 80));
        // Not while there is a pod.
        host.wait(cni.cleanup());
        server.answer((attached.ips[0], 80));
        detach(host, &cni, &a);
        host.wait(cni.cleanup());
        assert_eq!(links(), before);
        assert_eq!(run("nft", &["list", "tables"]), "");
    });
}
