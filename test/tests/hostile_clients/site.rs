//! A daemon that is attacked, and what it uses.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use corten_proto::cri;
use corten_test::{
    node::Node,
    pod,
    streams::{self, PROTOCOLS},
    wait::until,
};

/// Nothing that the daemon answers takes as long.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Site {
    pub(super) node: Node,
    pub(super) runtime: pod::Runtime,
    pub(super) pod: String,
    pub(super) container: String,
    before: Usage,
}

/// Of the daemon.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Usage {
    descriptors: usize,
    threads: usize,
}

impl Site {
    /// With a container that sleeps, and once a session has been served.
    pub(super) async fn new(options: &[&str]) -> Self {
        let (node, mut runtime, pod) = streams::site(options).await.unwrap();
        let config = pod::container("main", "exec sleep 3600");
        let container = pod::run(&mut runtime, &pod, &config).await.unwrap();
        let before = Usage {
            descriptors: usize::MAX,
            threads: usize::MAX,
        };
        let mut site = Self {
            node,
            runtime,
            pod,
            container,
            before,
        };
        site.unharmed().await;
        site.before = until(|| async {
            let usage = site.usage();
            tokio::time::sleep(Duration::from_millis(200)).await;
            (usage == site.usage()).then_some(usage).ok_or("it changes")
        })
        .await
        .unwrap();
        site
    }

    pub(super) async fn exec(&mut self, script: &str) -> String {
        let request = streams::exec_request(&self.container, script);
        self.runtime.exec(request).await.unwrap().into_inner().url
    }

    pub(super) async fn forward(&mut self) -> String {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: self.pod.clone(),
            port: vec![],
        };
        let url = self.runtime.port_forward(request).await.unwrap();
        url.into_inner().url
    }

    /// A connection to the server that this URL is for.
    pub(super) fn connect(&self, url: &str) -> TcpStream {
        let address = url.split('/').nth(2).unwrap();
        let socket = self.node.connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Comes by a URL with these headers. Returns the connection and the answer's head.
    pub(super) fn request(&self, url: &str, headers: &str) -> (TcpStream, String) {
        let mut socket = self.connect(url);
        let path: String = url
            .split('/')
            .skip(3)
            .map(|part| format!("/{part}"))
            .collect();
        let request = format!("POST {path} HTTP/1.1\r\nHost: node\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let head = head(&mut socket);
        (socket, head)
    }

    fn usage(&self) -> Usage {
        let pid = self.node.daemon_pid().unwrap();
        let count = |what| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        Usage {
            descriptors: count("fd"),
            threads: count("task"),
        }
    }

    /// Descriptors of the daemon's, beyond those that it had before.
    pub(super) fn further_descriptors(&self) -> usize {
        let now = self.usage().descriptors;
        now.saturating_sub(self.before.descriptors)
    }

    /// The daemon's own memory, MiB.
    pub(super) fn memory(&self) -> usize {
        let pid = self.node.daemon_pid().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<usize>().unwrap() >> 10
    }

    /// The daemon serves others, and has given back what the attack took.
    pub(super) async fn unharmed(&mut self) {
        let echo = pod::output(&mut self.runtime, &self.container, "echo served");
        assert_eq!(echo.await.unwrap(), "served\n");
        for protocol in PROTOCOLS {
            let request = streams::exec_request(&self.container, "cat; exit 3");
            let command = streams::exec(&self.node, &mut self.runtime, request, protocol);
            let output = streams::run(command.await.unwrap(), b"served").unwrap();
            assert_eq!(output.status.code(), Some(3), "{protocol:?}");
            assert_eq!(output.stdout, b"served", "{protocol:?}");
        }
        until(|| async {
            let (now, before) = (self.usage(), self.before);
            let is_less = now.descriptors <= before.descriptors && now.threads <= before.threads;
            is_less
                .then_some(())
                .ok_or(format!("{now:?}, and {before:?} before"))
        })
        .await
        .unwrap();
    }

    /// Waits until a file is there in the container.
    pub(super) async fn file(&self, path: &str) {
        until(|| {
            let (mut runtime, script) = (self.runtime.clone(), format!("test -e {path}"));
            async move { pod::output(&mut runtime, &self.container, &script).await }
        })
        .await
        .unwrap();
    }
}

/// An answer up to its body; empty where the connection ends without one.
pub(super) fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(socket.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Reads what comes until the connection ends; fails when it does not.
pub(super) fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
            panic!("the connection is not closed: {error}")
        }
        _ => rest,
    }
}

/// Writes a byte a second until the other side has gone, on a thread of its own.
pub(super) fn drip(socket: &TcpStream, byte: u8) {
    let mut socket = socket.try_clone().unwrap();
    std::thread::spawn(move || {
        while socket.write_all(&[byte]).is_ok() {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}
