//! The server that streaming sessions come to: TLS, and clients that say nothing or too much.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{io::Read, process::Stdio};

use corten_proto::cri;
use corten_test::{
    image,
    node::Node,
    pod,
    streams::{self, PROTOCOLS},
};

/// Makes a certificate of this name and its key, in place of those that are there.
fn certify(node: &Node, name: &str) {
    let dir = node.dir().display();
    let script = format!(
        "cd {dir} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
         -keyout key.new -out cert.new 2>&1 && mv key.new key.pem && mv cert.new cert.pem"
    );
    node.shell(&script).unwrap();
}

/// The name in the certificate that a client is shown.
fn shown(node: &Node, url: &str, flags: &str) -> Result<String, String> {
    let address = url.split('/').nth(2).unwrap();
    let script = format!(
        "openssl s_client -connect {address} {flags} </dev/null 2>/dev/null | openssl x509 -noout -subject"
    );
    node.shell(&script).map_err(|error| format!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_encrypted_and_a_new_certificate_is_taken() {
    let mut node = Node::without_daemon(&["--dev-network"]).await.unwrap();
    certify(&node, "first");
    let dir = node.dir().to_owned();
    let file = |name: &str| dir.join(name).display().to_string();
    let flags = [
        ("--stream-tls-certificate", file("cert.pem")),
        ("--stream-tls-key", file("key.pem")),
        ("--stream-tls-min-version", "1.3".into()),
    ];
    node.add_options(flags.map(|(flag, value)| format!("{flag}={value}")));
    node.start_daemon().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let config = pod::host_network_pod("tls");
    let pod_id = pod::run_pod(&mut runtime, &config).await.unwrap();
    let config = pod::container("main", "exec sleep 3600");
    let container = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    for protocol in PROTOCOLS {
        let request = streams::exec_request(&container, "cat; exit 3");
        let command = streams::exec(&node, &mut runtime, request, protocol);
        let output = streams::run(command.await.unwrap(), b"through TLS").unwrap();
        assert_eq!(output.status.code(), Some(3), "{protocol:?}");
        assert_eq!(output.stdout, b"through TLS");
    }
    let request: cri::ExecRequest = streams::exec_request(&container, "true");
    let url = runtime.exec(request).await.unwrap().into_inner().url;
    assert!(url.starts_with("https://"), "{url}");
    assert!(shown(&node, &url, "-tls1_2").is_err());
    assert!(shown(&node, &url, "").unwrap().contains("first"));
    certify(&node, "second");
    assert!(shown(&node, &url, "").unwrap().contains("second"));
    // One that cannot be used changes nothing.
    node.shell(&format!("echo nonsense > {}", file("cert.pem")))
        .unwrap();
    assert!(shown(&node, &url, "").unwrap().contains("second"));
    assert!(node.log().contains("keeps its old certificate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_turned_away() {
    let node = Node::start().await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod_id = pod::run_pod(&mut runtime, &pod::host_network_pod("slow"))
        .await
        .unwrap();
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod_id,
        port: vec![],
    };
    let url = runtime
        .port_forward(request)
        .await
        .unwrap()
        .into_inner()
        .url;
    let address = url.split('/').nth(2).unwrap().replace(':', "/");
    // A beginning of a request and no end; and headers without end, of which the rest finds nobody.
    let slow = format!(
        "exec 3<>/dev/tcp/{address}; printf 'GET / HTTP/1.1\\r\\nA: ' >&3; timeout 30 cat <&3"
    );
    let long = format!(
        "exec 3<>/dev/tcp/{address}; (printf 'GET / HTTP/1.1\\r\\nA: '; yes) >&3 2>/dev/null & timeout 30 cat <&3; kill $!"
    );
    for script in [slow, long] {
        let output = node.command("bash").args(["-c", &script]).output().unwrap();
        assert_ne!(output.status.code(), Some(124), "{script}");
    }
}

/// Its machine may go without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_asks_whether_its_client_is_there() {
    let (node, mut runtime, pod_id) = streams::site(&[]).await.unwrap();
    let config = pod::container("main", "exec sleep 3600");
    let container = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    for protocol in PROTOCOLS {
        let request = streams::exec_request(&container, "echo begun; cat");
        let url = runtime.exec(request.clone()).await.unwrap().into_inner();
        let port = url.url.split([':', '/']).nth(4).unwrap().to_owned();
        let command = streams::exec(&node, &mut runtime, request, protocol).await;
        let mut command = command.unwrap();
        let mut client = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut begun = [0; 6];
        let output = client.stdout.as_mut().unwrap();
        output.read_exact(&mut begun).unwrap();
        let timers = format!("ss -Htno state established sport = :{port}");
        let timers = node.shell(&timers).unwrap();
        client.kill().unwrap();
        client.wait().unwrap();
        assert!(timers.contains("keepalive"), "{protocol:?}: {timers}");
    }
}
