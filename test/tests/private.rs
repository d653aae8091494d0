//! What the daemon was started with stays with it, and what it keeps is for root alone.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use corten_proto::cri;
use corten_test::{handler, image, node::Node, pod};

/// Opens `file` as a descriptor that a careless starter leaves open, and others of every kind.
fn leaky(file: &Path) -> String {
    format!("exec 7>>'{}' 8</ 9</dev/null", file.display())
}

/// What the process has open: the targets of its descriptors.
fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.map(|path| path.display().to_string()).collect()
}

/// The host's ids of the node's processes that were started with this first word.
fn started_as(node: &Node, word: &str) -> Vec<i32> {
    let mut found = Vec::new();
    let mut open = vec![node.daemon_pid().unwrap()];
    while let Some(pid) = open.pop() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).next() == Some(word.as_bytes()) {
            found.push(pid);
        }
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter();
        for task in tasks.flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            open.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
    }
    found
}

/// A script in the node's directory that writes down what it has open, and then does `then`.
fn write_spy(node: &Node, name: &str, then: &str) -> String {
    let dir = node.dir().join("programs");
    fs::create_dir_all(&dir).unwrap();
    let (path, seen) = (dir.join(name), node.dir().join(format!("{name}.seen")));
    let script = format!(
        "#!/bin/sh\nfor fd in /proc/$$/fd/*; do readlink $fd; done >> {}\n{then}\n",
        seen.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn seen(node: &Node, name: &str) -> String {
    fs::read_to_string(node.dir().join(format!("{name}.seen"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_inherited_reaches_no_other_process() {
    let mut node = Node::without_daemon(&[]).await.unwrap();
    let runc = handler::runc().unwrap();
    let spy = write_spy(
        &node,
        "runtime",
        &format!("exec '{}' \"$@\"", runc.display()),
    );
    let config = node.dir().join("config.toml");
    fs::write(&config, handler::table(handler::OCI, &spy)).unwrap();
    let result = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.99.0.2/24","interface":0}]}"#;
    write_spy(
        &node,
        "plugin",
        &format!("cat > /dev/null; if test $CNI_COMMAND = ADD; then echo '{result}'; fi"),
    );
    let list = r#"{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"plugin"}]}"#;
    fs::write(node.dir().join("net.d/10-test.conflist"), list).unwrap();
    let secret = node.dir().join("secret");
    node.add_options([
        "--config".into(),
        config.display().to_string(),
        "--cni-bin-dir".into(),
        node.dir().join("programs").display().to_string(),
    ]);
    node.set_prelude(&leaky(&secret));
    node.start_daemon().await.unwrap();
    // The daemon itself has it, or this test could not fail.
    let name = secret.display().to_string();
    assert!(descriptors(node.daemon_pid().unwrap()).contains(&name));

    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let mut shared = pod::pod("shared");
    let context = shared.linux.as_mut().unwrap().security_context.as_mut();
    context.unwrap().namespace_options = Some(pod::namespaces(
        cri::NamespaceMode::Pod,
        cri::NamespaceMode::Pod,
    ));
    let shared = pod::run_pod(&mut runtime, &shared).await.unwrap();
    let mut sleeper = pod::container("sleeper", "exec sleep 1000");
    pod::security(&mut sleeper).namespace_options = Some(pod::namespaces(
        cri::NamespaceMode::Pod,
        cri::NamespaceMode::Pod,
    ));
    pod::run(&mut runtime, &shared, &sleeper).await.unwrap();
    let config = pod::host_network_pod("external");
    let external = handler::run_pod(&mut runtime, &config, handler::OCI)
        .await
        .unwrap();
    let sleeper = pod::container("external", "exec sleep 1000");
    pod::run(&mut runtime, &external, &sleeper).await.unwrap();

    // Two shims of containers, the init of the shared PID namespace and a monitor.
    let ours = started_as(&node, "corten-shim");
    assert!(ours.len() >= 3, "{ours:?}");
    for pid in ours {
        let open = descriptors(pid);
        assert!(!open.contains(&name), "process {pid}: {open:?}");
        assert!(!open.iter().any(|path| path == "/"), "{pid}: {open:?}");
    }
    for program in ["plugin", "runtime"] {
        let seen = seen(&node, program);
        assert!(seen.contains("pipe:"), "{program} saw nothing: {seen}");
        assert!(!seen.contains(&name), "{program}: {seen}");
    }
    pod::remove_pod(&mut runtime, &shared).await.unwrap();
    pod::remove_pod(&mut runtime, &external).await.unwrap();
}

/// Files and directories below `dir` that somebody but root can read, write or enter, without those that a container's
/// processes see as their own.
fn open_to_others(node: &Node, dir: &Path) -> Vec<String> {
    let theirs = [
        "*/layers/*",
        "*/containers/*/upper",
        "*/containers/*/upper/*",
        "*/containers/*/volumes/*",
        "*/skeleton",
        "*/skeleton/*",
        "*/empty",
        "*/pods/*/shm",
        // The kernel's own files, behind a directory that is closed.
        "*/pods/*/ns/*",
        "*/pods/*/etc/*",
    ];
    let prunes: Vec<_> = theirs
        .iter()
        .map(|path| format!("-path '{path}'"))
        .collect();
    let script = format!(
        "find '{}' \\( {} \\) -prune -o ! -type l -perm /077 -printf '%m %p\\n'",
        dir.display(),
        prunes.join(" -o ")
    );
    node.shell(&script)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

async fn check_modes(umask: &str) {
    let mut node = Node::without_daemon(&["--dev-network"]).await.unwrap();
    let state = node.state();
    // As an earlier daemon has left them.
    for dir in [node.root(), state.clone()] {
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    node.set_prelude(&format!("umask {umask}"));
    node.start_daemon().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let id = pod::run_pod(&mut runtime, &pod::pod("kept")).await.unwrap();
    let mut config = pod::container("kept", "exec sleep 1000");
    pod::security(&mut config).run_as_user = Some(cri::Int64Value { value: 1000 });
    let container = pod::run(&mut runtime, &id, &config).await.unwrap();
    let ended = pod::run(&mut runtime, &id, &pod::container("ended", "exit 3"))
        .await
        .unwrap();
    pod::exited(&runtime, &ended).await.unwrap();

    for dir in [node.root(), state, node.dir().join("addresses/corten-dev")] {
        let open = open_to_others(&node, &dir);
        assert!(open.is_empty(), "umask {umask}: {open:#?}");
    }
    // What is a container's is as its user needs it.
    let script = "cat /etc/hosts /etc/resolv.conf /etc/hostname /bin/busybox > /dev/null && \
                  stat -c %a / /etc /etc/hosts /etc/resolv.conf /etc/hostname /dev/shm";
    let modes = pod::output(&mut runtime, &container, script).await.unwrap();
    assert_eq!(modes, "755\n755\n644\n644\n644\n1777\n", "umask {umask}");
    pod::remove_pod(&mut runtime, &id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_keeps_is_for_root_alone() {
    check_modes("000").await;
    check_modes("022").await;
    check_modes("077").await;
}
