//! A spy that writes to all that it reaches, while others are set up, so that a shim takes a process of the host for one of
//! its own.

use std::{fs, io::Write, os::unix::fs::FileExt, path::PathBuf};

use corten_proto::cri::{self, NamespaceMode};
use corten_test::{pod, wait::until};

use crate::{DECOY, MOST, Site, is_ours, shared_memory, tracing::HOSTS_SOCKET};

/// Writes to all of a process of ours that others have a part of, by each way that there is, what could be taken for the
/// number of a child, or for a message.
pub(crate) fn write_to(pid: &str, decoy: u32) {
    let dir = PathBuf::from("/proc").join(pid);
    let memory = fs::File::options().write(true).open(dir.join("mem"));
    let shared = shared_memory(&dir);
    let open = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
    let open: Vec<_> = open.map(|entry| entry.path()).collect();
    if !is_ours(&dir) {
        return;
    }
    for (line, begin) in &shared {
        if let Ok(memory) = &memory {
            let _ = memory.write_all_at(&decoy.to_ne_bytes(), *begin);
        }
        let range = line.split_whitespace().next().unwrap_or_default();
        let file = fs::File::options()
            .write(true)
            .open(dir.join("map_files").join(range));
        let _ = file.map(|file| file.write_all_at(&decoy.to_ne_bytes(), 0));
    }
    // Above the streams.
    for path in open.iter().filter(|path| {
        let number = path.file_name().and_then(|name| name.to_str());
        number
            .and_then(|number| number.parse().ok())
            .is_some_and(|number: u32| number > 2)
    }) {
        if let Ok(mut file) = fs::File::options().write(true).open(path) {
            let _ = file.write_all(&message(pid.parse().unwrap(), decoy));
        }
    }
}

/// What could be taken for a word of the process: another for each, since for some of them the daemon waits for a while.
fn message(pid: u32, decoy: u32) -> Vec<u8> {
    match pid % 32 {
        // A failure, since the container is about to end.
        7 => vec![0x0a, 0x02, 0x08, 0x02],
        // That the container is made, with this process.
        number if number % 2 == 0 => {
            let mut number = decoy;
            let mut created = vec![0x08];
            while number >= 0x80 {
                created.push(0x80 | u8::try_from(number & 0x7f).unwrap());
                number >>= 7;
            }
            created.push(u8::try_from(number).unwrap());
            [&[0x12, u8::try_from(created.len()).unwrap()], &*created].concat()
        }
        _ => vec![0xff; 4096],
    }
}

/// How a spy that writes is to be run.
struct Writer {
    pid: NamespaceMode,
    /// Whether it is root.
    root: bool,
    /// Whether its pod has a user namespace.
    users: bool,
}

fn pod_of(writer: &Writer) -> cri::PodSandboxConfig {
    let mut config = pod::pod("writing");
    let linux = config.linux.as_mut().unwrap();
    let options = linux.security_context.as_mut().unwrap();
    let pod_mode = match writer.pid {
        NamespaceMode::Pod => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    let mut namespaces = pod::namespaces(NamespaceMode::Pod, pod_mode);
    if writer.users {
        let ids = cri::IdMapping {
            host_id: 300_000,
            container_id: 0,
            length: 65_536,
        };
        namespaces.userns_options = Some(cri::UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: vec![ids],
            gids: vec![ids],
        });
    }
    options.namespace_options = Some(namespaces);
    config
}

impl Site {
    /// What an exec of a container sees of its mounts, if the spy lets it; however the spy has it end.
    async fn sees(&self, container: &str, script: &str) -> String {
        let done = pod::exec(&mut self.runtime.clone(), container, script).await;
        done.map(|done| String::from_utf8_lossy(&done.stdout).into_owned())
            .unwrap_or_default()
    }

    /// Commands, some of which end by their time, and containers, in the presence of the spy.
    async fn provoke(&mut self, spy: &str, target: NamespaceMode, host: &str) {
        let timed = |_| {
            let mut runtime = self.runtime.clone();
            let request = cri::ExecSyncRequest {
                container_id: spy.into(),
                cmd: vec!["sleep".into(), "1000".into()],
                timeout: 1,
            };
            tokio::spawn(async move { runtime.exec_sync(request).await })
        };
        let timed = [(); 3].map(timed);
        for round in 0..24 {
            let seen = self.sees(spy, "readlink /proc/self/ns/mnt").await;
            assert_ne!(
                seen.trim(),
                host,
                "an exec is in the host's mount namespace"
            );
            if target != NamespaceMode::Container && round % 4 == 0 {
                self.provoke_by_another(spy, target, &format!("other-{round}"), host)
                    .await;
            }
        }
        for timed in timed {
            // Killed by its time, or ended by the spy.
            let _ = timed.await.unwrap();
        }
    }

    /// A container that is made where the spy is, and a command in it.
    async fn provoke_by_another(
        &mut self,
        spy: &str,
        target: NamespaceMode,
        name: &str,
        host: &str,
    ) {
        let mut config = pod::container(name, "sleep 1000");
        config.envs.push(cri::KeyValue {
            key: "PATH".into(),
            value: crate::long_path().into(),
        });
        let mut namespaces = pod::namespaces(NamespaceMode::Pod, target);
        namespaces.target_id = spy.into();
        namespaces.userns_options = self.users.clone();
        pod::security(&mut config).namespace_options = Some(namespaces);
        let made = pod::create(&mut self.runtime, &self.pod, &config)
            .await
            .unwrap();
        // What is written in its place may be that it has failed.
        let _ = pod::start(&mut self.runtime, &made).await;
        let seen = self.sees(&made, "readlink /proc/self/ns/mnt").await;
        assert_ne!(
            seen.trim(),
            host,
            "an exec is in the host's mount namespace"
        );
        pod::stop(&mut self.runtime, &made, 0).await.unwrap();
    }

    /// Runs commands until the writer has taken a process over that sets one up. What became of them is in its hands.
    async fn run_until_one_is_taken(&mut self, spy: &str) {
        for _ in 0..MOST {
            if self.number("acts") > 0 {
                return;
            }
            let _ = pod::exec(&mut self.runtime, spy, "true").await;
        }
        panic!("of {MOST} commands it has taken no process");
    }

    /// Waits until no shim of the node is busy: their times stand still.
    async fn is_quiet(&self) {
        let times = "for shim in $(grep -l corten-shim /proc/[0-9]*/comm); do cut -d')' -f2 ${shim%comm}stat | \
                     cut -d' ' -f2,13,14; done; true";
        let (mut before, mut quiet) = (String::new(), 0);
        until(|| {
            let now = self.node.shell(times).unwrap();
            let still = now == before && !now.contains('R');
            quiet = if still { quiet + 1 } else { 0 };
            before = now;
            std::future::ready(if quiet > 20 {
                Ok(())
            } else {
                Err(before.clone())
            })
        })
        .await
        .unwrap();
    }
}

async fn writes(writer: Writer) {
    let case = format!(
        "{:?}, root {}, users {}",
        writer.pid, writer.root, writer.users
    );
    let mut site = Site::new(pod_of(&writer)).await;
    let _hosts = site.node.listen(HOSTS_SOCKET).unwrap();
    let decoy = site
        .node
        .shell("sleep 100000 > /dev/null 2>&1 & echo $!")
        .unwrap();
    let decoy = decoy.trim().to_owned();
    let host = site.node.shell("readlink /proc/self/ns/mnt").unwrap();
    let own = match writer.pid {
        NamespaceMode::Pod => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    let users = site.users.clone();
    let spy = site
        .spy(|config| {
            config.envs.push(cri::KeyValue {
                key: DECOY.into(),
                value: decoy.clone().into(),
            });
            let security = pod::security(config);
            let mut namespaces = pod::namespaces(NamespaceMode::Pod, own);
            namespaces.userns_options = users;
            security.namespace_options = Some(namespaces);
            if !writer.root {
                security.run_as_user = Some(cri::Int64Value { value: 1000 });
                let capabilities = security.capabilities.as_mut().unwrap();
                capabilities.add_ambient_capabilities = vec!["SYS_PTRACE".into()];
            }
        })
        .await;
    site.provoke(&spy, writer.pid, host.trim()).await;
    // From a user namespace none can be traced that is not its own yet.
    if !writer.users {
        site.run_until_one_is_taken(&spy).await;
    }
    assert_eq!(site.wait_for("found").await, "", "{case}");
    let name = format!("cat /proc/{decoy}/comm");
    assert_eq!(
        site.node.shell(&name).unwrap(),
        "sleep\n",
        "{case}: the decoy"
    );
    fs::write(site.shared.join("stop"), "").unwrap();
    site.wait_for("ended").await;
    let seen = site.sees(&spy, "true; readlink /proc/self/ns/mnt").await;
    assert_ne!(seen.trim(), host.trim(), "{case}");
    site.is_quiet().await;
    pod::stop(&mut site.runtime, &spy, 0).await.unwrap();
    let status = pod::exited(&site.runtime, &spy).await.unwrap();
    assert!([0, 137].contains(&status.exit_code), "{case}: {status:?}");
    pod::remove_pod(&mut site.runtime, &site.pod).await.unwrap();
    assert_eq!(
        site.node.shell(&name).unwrap(),
        "sleep\n",
        "{case}: the decoy"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_writes_in_a_pid_namespace_of_its_own_reaches_nothing_of_the_hosts() {
    for (root, users) in [(true, false), (false, false), (true, true), (false, true)] {
        let pid = NamespaceMode::Container;
        writes(Writer { pid, root, users }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_writes_in_a_shared_pid_namespace_reaches_nothing_of_the_hosts() {
    for (root, users) in [(true, false), (false, false), (true, true), (false, true)] {
        let pid = NamespaceMode::Pod;
        writes(Writer { pid, root, users }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_writes_where_others_debug_it_reaches_nothing_of_the_hosts() {
    for (root, users) in [(true, false), (false, false), (true, true), (false, true)] {
        let pid = NamespaceMode::Target;
        writes(Writer { pid, root, users }).await;
    }
}
