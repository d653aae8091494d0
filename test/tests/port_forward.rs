//! Sessions of PortForward, with the library that kubectl has.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{
    env,
    path::Path,
    process::{Child, Stdio},
};

use corten_test::{
    node::Node,
    pod,
    streams::{self, PROTOCOLS, Protocol},
};

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod_id: String,
    /// Gives back what it gets, or resets.
    servers: [Child; 2],
}

impl Drop for Site {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// A pod, and servers at its localhost: at port 7 one that gives back what it gets, at port 8 one that resets.
async fn site(own_network: bool, listen: &str) -> Site {
    let node = Node::start().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let config = match own_network {
        true => pod::pod("forward"),
        false => pod::host_network_pod("forward"),
    };
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let inside = match own_network {
        // The pod's is the only one.
        true => "ip netns exec \"$(ls /run/netns)\"",
        false => "",
    };
    let servers = [
        "7,fork,reuseaddr,backlog=1024 PIPE",
        "8,fork,reuseaddr EXEC:true",
    ];
    let servers = servers.map(|what| {
        let mut command = node.command("sh");
        command.args(["-c", &format!("exec {inside} socat {listen}:{what}")]);
        command.stdin(Stdio::null()).spawn().unwrap()
    });
    Site {
        node,
        runtime,
        pod_id,
        servers,
    }
}

impl Site {
    async fn forward(&mut self, protocol: Protocol, flags: &[&str]) -> (Option<i32>, String) {
        let (node, pod_id) = (&self.node, &self.pod_id);
        let command = streams::forward(node, &mut self.runtime, pod_id, protocol);
        let mut command = command.await.unwrap();
        let output = command.args(flags).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    }

    /// Until the server listens.
    async fn wait(&mut self) {
        for _ in 0..200 {
            let (code, _) = self
                .forward(Protocol::Spdy, &["--port", "7", "--bytes", "1"])
                .await;
            if code == Some(0) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("the server does not listen");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_by_the_hundred_get_back_what_they_send() {
    let mut site = site(true, "TCP4-LISTEN").await;
    site.wait().await;
    let count: usize = env::var("CORTEN_FORWARDS").map_or(300, |count| count.parse().unwrap());
    // In the long form a MiB on each.
    let bytes = if count > 300 { 1 << 20 } else { 1 << 18 };
    let resets = count / 10;
    let whole = format!("{} whole, {resets} reset, 0 failed", count - resets);
    for protocol in PROTOCOLS {
        let (count, bytes, resets) = (count.to_string(), bytes.to_string(), resets.to_string());
        let flags = ["--port", "7", "--connections", &count, "--bytes", &bytes];
        let flags = [&flags[..], &["--resets", &resets]].concat();
        let (code, text) = site.forward(protocol, &flags).await;
        assert_eq!(code, Some(0), "{protocol:?}: {text}");
        assert!(text.contains(&whole), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_ipv6_alone_is_found() {
    if !Path::new("/proc/net/if_inet6").exists() {
        println!("left out: this kernel has no IPv6");
        return;
    }
    let mut site = site(true, "TCP6-LISTEN").await;
    site.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_the_hosts_network_is_forwarded_to() {
    let mut site = site(false, "TCP4-LISTEN").await;
    site.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_a_server_is_told() {
    let mut site = site(true, "TCP4-LISTEN").await;
    for protocol in PROTOCOLS {
        let (code, text) = site.forward(protocol, &["--port", "9"]).await;
        assert_eq!(code, Some(1));
        assert!(
            text.contains("port 9") && text.contains("refused"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_harms_no_other() {
    let mut site = site(true, "TCP4-LISTEN").await;
    site.wait().await;
    for protocol in PROTOCOLS {
        // Refused and reset, while one is open; then many more.
        let broken = "9,8,9,8,8,9";
        let flags = ["--port", "7", "--broken", broken, "--connections", "50"];
        let (code, text) = site.forward(protocol, &flags).await;
        assert_eq!(code, Some(0), "{protocol:?}: {text}");
        assert!(text.contains("50 whole, 0 reset, 0 failed"), "{text}");
    }
}
