//! A host of a test's own, its pods, and a neighbour.

use std::{
    fs::{self, File},
    future::Future,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use corten_cni::{Attached, Attachment, Capabilities, Cni, Options, PortMapping};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::Uid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};

/// What the daemon under test is called.
pub(crate) const INSTANCE: &str = "c0ffee01";
/// As long as a packet may take on its way through this machine.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) dir: TempDir,
    runtime: Runtime,
}

/// Runs `test` in namespaces that end with it.
#[track_caller]
pub(crate) fn on_a_host(test: impl FnOnce(&Host) + Send) {
    assert!(Uid::effective().is_root(), "this needs root");
    let ended = thread::scope(|scope| {
        let body = || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            run("ip", &["link", "set", "lo", "up"]);
            // Its threads are born here, and so in these namespaces.
            let runtime = Runtime::new().unwrap();
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("net.d")).unwrap();
            let host = Host { dir, runtime };
            test(&host);
            drop(host.runtime);
        };
        scope.spawn(body).join()
    });
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

impl Host {
    pub(crate) fn options(&self) -> Options {
        let below = |name| self.dir.path().join(name);
        Options {
            conf_dir: below("net.d"),
            bin_dirs: vec![below("bin"), "/usr/lib/cni".into()],
            cache_dir: below("cache"),
            builtin: true,
            dev_network: false,
            instance: INSTANCE.into(),
            data_dir: below("networks"),
            timeout: Duration::from_secs(10),
        }
    }

    /// A network of this host with these plugins.
    pub(crate) fn network(&self, plugins: Value) -> Cni {
        self.configure(plugins);
        Cni::new(self.options())
    }

    /// Writes the configuration.
    pub(crate) fn configure(&self, plugins: Value) {
        let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": plugins });
        let file = self.dir.path().join("net.d/10-net.conflist");
        fs::write(file, list.to_string()).unwrap();
    }

    /// A plugin that is a script.
    pub(crate) fn script(&self, name: &str, text: &str) {
        let bin = self.dir.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
        run("chmod", &["+x", path.to_str().unwrap()]);
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn spawn(
        &self,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        self.runtime.spawn(future)
    }

    /// A pod without a network, under `name` as its container id.
    pub(crate) fn pod(&self, name: &str) -> Pod {
        let netns = self.dir.path().join(name);
        File::create(&netns).unwrap();
        let pin = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let (from, none) = (Path::new("/proc/thread-self/ns/net"), None::<&str>);
            mount(Some(from), &netns, none, MsFlags::MS_BIND, none).unwrap();
        };
        thread::scope(|scope| scope.spawn(pin).join()).unwrap();
        Pod {
            attachment: Attachment {
                container_id: name.into(),
                netns,
                pod_name: "pod".into(),
                pod_namespace: "default".into(),
                pod_uid: "uid".into(),
                port_mappings: Vec::new(),
                capabilities: Capabilities::default(),
            },
        }
    }

    /// Attaches a new pod.
    #[track_caller]
    pub(crate) fn attach(&self, cni: &Cni, name: &str, ports: &[PortMapping]) -> (Pod, Attached) {
        let mut pod = self.pod(name);
        pod.attachment.port_mappings = ports.to_vec();
        let attached = self.wait(cni.add(pod.attachment.clone())).unwrap();
        (pod, attached)
    }

    /// A machine beside this one: 192.0.2.2, where this is 192.0.2.1. It has no route to pods.
    pub(crate) fn neighbour(&self) -> Pod {
        let pod = self.pod("neighbour");
        let outside = pod.attachment.netns.to_str().unwrap().to_owned();
        run(
            "ip",
            &["link", "add", "out", "type", "veth", "peer", "name", "eth0"],
        );
        run("ip", &["address", "add", "192.0.2.1/24", "dev", "out"]);
        run("ip", &["link", "set", "out", "up"]);
        // `ip link set netns` takes a name below /run/netns or a process; a process that waits there is one.
        let mut inside = Command::new("nsenter")
            .args([&format!("--net={outside}"), "cat"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        until("the process is in the namespace", || {
            let same = |path: &str| {
                fs::metadata(path)
                    .ok()
                    .map(|file| std::os::unix::fs::MetadataExt::ino(&file))
            };
            same(&format!("/proc/{}/ns/net", inside.id())) == same(&outside)
        });
        run(
            "ip",
            &["link", "set", "eth0", "netns", &inside.id().to_string()],
        );
        drop(inside.stdin.take());
        inside.wait().unwrap();
        pod.inside(|| {
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["address", "add", "192.0.2.2/24", "dev", "eth0"]);
            run("ip", &["link", "set", "eth0", "up"]);
        });
        pod
    }

    /// The files with an address of the network.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("networks/net"));
        let names = entries.map(|entries| {
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names
                .filter(|name| name.parse::<IpAddr>().is_ok())
                .collect()
        });
        names.unwrap_or_default()
    }

    /// What the cache knows.
    pub(crate) fn cached(&self) -> usize {
        fs::read_dir(self.dir.path().join("cache")).map_or(0, Iterator::count)
    }
}

#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) attachment: Attachment,
}

impl Pod {
    pub(crate) fn netns(&self) -> &PathBuf {
        &self.attachment.netns
    }

    /// Runs `work` in the pod's network namespace. A socket that it opens stays there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(self.netns()).unwrap();
        let body = || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(body).join()).unwrap()
    }

    /// A server in the pod.
    pub(crate) fn listen(&self, address: &str) -> Server {
        self.inside(|| Server::new(address))
    }

    /// The namespace ends, as far as the test holds it.
    pub(crate) fn end(&self) {
        nix::mount::umount(self.netns()).unwrap();
        fs::remove_file(self.netns()).unwrap();
    }
}

/// A server that answers every connection with one word.
#[derive(Debug)]
pub(crate) struct Server(TcpListener);

impl Server {
    pub(crate) fn new(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Connects from the calling thread's namespace; returns whom the server saw.
    #[track_caller]
    pub(crate) fn answer(&self, to: (IpAddr, u16)) -> IpAddr {
        match self.try_answer(to) {
            Ok(seen) => seen,
            Err(error) => panic!("{to:?}: {error}"),
        }
    }

    pub(crate) fn try_answer(&self, to: (IpAddr, u16)) -> io::Result<IpAddr> {
        let mut client = TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let end = Instant::now() + PATIENCE;
        let (mut server, seen) = loop {
            match self.0.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    sleep(LOOK_AGAIN);
                }
                accepted => break accepted?,
            }
        };
        server.write_all(b"pong")?;
        drop(server);
        let mut told = String::new();
        client.read_to_string(&mut told)?;
        assert_eq!(told, "pong");
        Ok(seen.ip())
    }
}

/// Runs a program in the calling thread's namespaces; returns what it prints.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + 5 * PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        sleep(LOOK_AGAIN);
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The names of the links here.
pub(crate) fn links() -> Vec<String> {
    let all: Value = serde_json::from_str(&run("ip", &["-j", "link"])).unwrap();
    let names = all
        .as_array()
        .unwrap()
        .iter()
        .map(|link| link["ifname"].as_str().unwrap().to_owned());
    names.collect()
}

/// Every element of the daemon's nf_tables table, but for the networks of pods.
pub(crate) fn elements() -> String {
    let table = run(
        "nft",
        &["list", "table", "inet", &format!("corten_{INSTANCE}")],
    );
    table
        .lines()
        .filter(|line| line.contains("elements = "))
        .collect::<Vec<_>>()
        .join("\n")
}
