//! Plugins whose program is not there, or not yet, or dies.

use std::{fs, thread, time::Duration};

use corten_cni::{Cni, PortMapping, Protocol};
use serde_json::json;

use crate::{
    bridge::{bridge, detach, nothing_is_left},
    host::{Host, elements, ip, on_a_host},
};

const PORT: PortMapping = PortMapping {
    protocol: Protocol::Tcp,
    container_port: 80,
    host_port: 8080,
    host_ip: None,
};

/// A bridge with host ports and one address to give, and a program after it.
fn network(host: &Host) -> Cni {
    let range =
        json!({ "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.2", "rangeEnd": "10.9.0.2" });
    let mut plugins = bridge(json!([[range]]));
    plugins.as_array_mut().unwrap().extend([
        json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
        json!({ "type": "program" }),
    ]);
    let cni = host.network(plugins);
    install(host);
    cni
}

fn install(host: &Host) {
    host.script(
        "program",
        r#"cat > /dev/null; echo "$CNI_COMMAND" >> "$0.log""#,
    );
}

fn remove(host: &Host) {
    fs::remove_file(host.dir.path().join("bin/program")).unwrap();
}

#[test]
fn a_missing_program_keeps_the_pod_and_not_its_address() {
    on_a_host(|host| {
        let mut cni = network(host);
        let (a, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[PORT]);
        remove(host);
        for _ in 0..2 {
            let refused = host.wait(cni.del(a.attachment.clone())).unwrap_err();
            let told = refused.to_string();
            for word in [
                "\"program\"",
                "/usr/lib/cni",
                "network net",
                "aaaaaaaaaaaaaaaa.json",
            ] {
                assert!(told.contains(word), "{word}: {told}");
            }
            host.wait(cni.wait_idle());
            assert!(host.addresses().is_empty(), "{:?}", host.addresses());
            assert!(!elements().contains("8080"), "{}", elements());
            assert_eq!(host.cached(), 1);
            // The next daemon knows as much.
            cni = Cni::new(host.options());
        }
        // Address and host port are another pod's, and stay so when the first is detached at last, by whichever daemon.
        install(host);
        let (b, attached) = host.attach(&cni, "bbbbbbbbbbbbbbbb", &[PORT]);
        assert_eq!(attached.ips, [ip("10.9.0.2")]);
        let server = b.listen("0.0.0.0:80");
        server.answer((ip("127.0.0.1"), 8080));
        remove(host);
        assert!(host.wait(cni.del(a.attachment.clone())).is_err());
        server.answer((ip("127.0.0.1"), 8080));
        install(host);
        detach(host, &cni, &a);
        host.wait(cni.wait_idle());
        server.answer((ip("127.0.0.1"), 8080));
        assert_eq!(host.addresses(), ["10.9.0.2"]);
        assert_eq!(host.cached(), 1);
        let cni = Cni::new(host.options());
        let c = host.pod("cccccccccccccccc");
        // The table that this daemon makes has the second pod, and not the first.
        assert!(host.wait(cni.add(c.attachment)).is_err());
        server.answer((ip("127.0.0.1"), 8080));
        detach(host, &cni, &b);
        nothing_is_left(host, &cni);
        // Two pods, and the one that found no address.
        let log = fs::read_to_string(host.dir.path().join("bin/program.log")).unwrap();
        assert_eq!(log, "ADD\nADD\nDEL\nDEL\nDEL\n");
    });
}

/// The programs that are there are asked, whichever is missing.
#[test]
fn the_other_programs_of_a_chain_are_asked() {
    on_a_host(|host| {
        let recording =
            r#"cat > /dev/null; echo "$CNI_COMMAND $(basename $0)" >> "$(dirname $0)/log""#;
        let answer =
            r#"[ "$CNI_COMMAND" != ADD ] || echo '{ "ips": [{ "address": "10.1.2.3/24" }] }'"#;
        for name in ["one", "two", "three"] {
            host.script(name, &format!("{recording}\n{answer}"));
        }
        let cni = host.network(json!([{ "type": "one" }, { "type": "two" }, { "type": "three" }]));
        let (pod, _) = host.attach(&cni, "aaaaaaaaaaaaaaaa", &[]);
        let bin = host.dir.path().join("bin");
        fs::rename(bin.join("two"), bin.join("away")).unwrap();
        let refused = host.wait(cni.del(pod.attachment.clone())).unwrap_err();
        assert!(refused.to_string().contains("\"two\""), "{refused}");
        fs::rename(bin.join("away"), bin.join("two")).unwrap();
        detach(host, &cni, &pod);
        let log = fs::read_to_string(bin.join("log")).unwrap();
        let dels: Vec<_> = log
            .lines()
            .filter_map(|line| line.strip_prefix("DEL "))
            .collect();
        assert_eq!(dels, ["three", "one", "three", "two", "one"]);
        assert_eq!(host.cached(), 0);
    });
}

/// A plugin that the ADD has not come to has nothing to undo.
#[test]
fn a_program_that_was_never_run_is_not_needed_for_undoing() {
    on_a_host(|host| {
        let mut plugins = bridge(json!([[{ "subnet": "10.9.0.0/24" }]]));
        plugins
            .as_array_mut()
            .unwrap()
            .extend([json!({ "type": "fatal" }), json!({ "type": "absent" })]);
        host.script("absent", "exit 0");
        host.script(
            "fatal",
            r#"rm -f "$(dirname $0)/absent"; [ "$CNI_COMMAND" = DEL ]"#,
        );
        let cni = host.network(plugins);
        let pod = host.pod("aaaaaaaaaaaaaaaa");
        let added = host.wait(cni.add(pod.attachment.clone())).unwrap_err();
        assert!(added.to_string().contains("fatal"), "{added}");
        host.wait(cni.wait_idle());
        assert!(host.addresses().is_empty());
        assert_eq!(host.cached(), 0);
    });
}

#[test]
fn a_plugin_that_a_signal_ends_is_told_by_the_signal() {
    on_a_host(|host| {
        host.script("victim", r#"[ "$CNI_COMMAND" = DEL ] || { echo '{ "ips": [{ "address": "10.1.2.3/24" }] }'; kill -9 $$; }"#);
        host.script("silent", r#"[ "$CNI_COMMAND" = DEL ] || exit 3"#);
        for (kind, word) in [("victim", "signal: 9"), ("silent", "exit status: 3")] {
            let cni = host.network(json!([{ "type": kind }]));
            let pod = host.pod(&format!("{kind:a<16}"));
            let told = host.wait(cni.add(pod.attachment)).unwrap_err().to_string();
            assert!(told.contains(word) && told.contains(kind), "{told}");
            assert_eq!(host.cached(), 0);
        }
    });
}

/// Only an ADD has a result.
#[test]
fn what_a_plugin_prints_when_it_detaches_is_its_own_matter() {
    on_a_host(|host| {
        let answer = r#"[ "$CNI_COMMAND" != ADD ] || { echo '{ "ips": [{ "address": "10.1.2.3/24" }] }'; exit 0; }"#;
        for (kind, more) in [
            ("silent", "exit 0"),
            ("chatty", "echo all is well; echo done >&2"),
            ("lavish", "head -c 2000000 /dev/zero"),
            ("pretty", r#"echo '{ "cniVersion": "9.9.9", "ips": 7 }'"#),
        ] {
            host.script(kind, &format!("echo careful >&2\n{answer}\n{more}"));
            let cni = host.network(json!([{ "type": kind }]));
            let (pod, _) = host.attach(&cni, &format!("{kind:a<16}"), &[]);
            detach(host, &cni, &pod);
            assert_eq!(host.cached(), 0, "{kind}");
        }
    });
}

/// The kernel refuses to run what is open for writing; installers of networks write their programs while pods start.
#[test]
fn a_program_that_is_being_installed_is_waited_for() {
    on_a_host(|host| {
        host.script(
            "busy",
            r#"[ "$CNI_COMMAND" = DEL ] || echo '{ "ips": [{ "address": "10.1.2.3/24" }] }'"#,
        );
        let cni = host.network(json!([{ "type": "busy" }]));
        let path = host.dir.path().join("bin/busy");
        let writer = fs::OpenOptions::new().append(true).open(path).unwrap();
        let pod = host.pod("aaaaaaaaaaaaaaaa");
        let attached = thread::scope(|scope| {
            scope.spawn(move || {
                // Nothing tells that the program has been tried.
                thread::sleep(Duration::from_millis(300));
                drop(writer);
            });
            host.wait(cni.add(pod.attachment.clone()))
        });
        assert_eq!(attached.unwrap().ips, [ip("10.1.2.3")]);
        detach(host, &cni, &pod);
    });
}
