//! Runtime handlers: pods whose containers an external OCI runtime makes: runc, or what CORTEN_TEST_RUNTIME names.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_proto::cri::{self, ContainerState};
use corten_test::{
    handler,
    leftovers::Leftovers,
    node::Node,
    pod,
    streams::{self, PROTOCOLS},
    wait::until,
};
use nix::sys::signal::Signal;
use tonic::Code;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
    before: Leftovers,
}

impl Site {
    async fn new() -> Self {
        let node = handler::node(&handler::oci_table().unwrap()).await.unwrap();
        Self::on(node, handler::OCI).await
    }

    async fn on(node: Node, name: &str) -> Self {
        let before = Leftovers::count(&node).unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let config = pod::logged(&node, pod::host_network_pod("site"));
        let pod = handler::run_pod(&mut runtime, &config, name).await.unwrap();
        Self {
            node,
            runtime,
            pod,
            before,
        }
    }

    async fn create(&mut self, config: &cri::ContainerConfig) -> pod::Reply<String> {
        pod::create(&mut self.runtime, &self.pod, config).await
    }

    async fn run(&mut self, config: &cri::ContainerConfig) -> String {
        pod::run(&mut self.runtime, &self.pod, config)
            .await
            .unwrap()
    }

    /// Runs a container until it says that it is ready.
    async fn run_ready(&mut self, config: &cri::ContainerConfig) -> String {
        let id = self.run(config).await;
        let name = config.log_path.clone();
        until(|| async { self.log(&name).contains("ready").then_some(()).ok_or(&name) })
            .await
            .unwrap();
        id
    }

    async fn start(&mut self, id: &str) -> Result<(), tonic::Status> {
        let request = cri::StartContainerRequest {
            container_id: id.into(),
        };
        self.runtime.start_container(request).await.map(drop)
    }

    async fn exec(
        &mut self,
        id: &str,
        cmd: &[&str],
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, tonic::Status> {
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: cmd.iter().map(|word| (*word).into()).collect(),
            timeout,
        };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    fn log(&self, path: &str) -> String {
        fs::read_to_string(self.node.dir().join("logs").join(path)).unwrap_or_default()
    }

    /// Removes the pod; nothing of it is left.
    async fn end(mut self) {
        pod::remove_pod(&mut self.runtime, &self.pod).await.unwrap();
        Leftovers::settle(&self.node, &self.before).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_another_runtime_runs_and_ends_as_any_other() {
    let mut site = Site::new().await;
    let script = "echo out; echo err >&2; pwd; echo home $HOME; exit 7";
    let mut config = pod::container("life", script);
    config.working_dir = "/made/here".into();
    let id = site.create(&config).await.unwrap();
    let status = pod::status(&mut site.runtime, &id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerCreated);
    assert!(site.log("life.log").is_empty(), "it ran before its start");
    site.start(&id).await.unwrap();
    let status = pod::exited(&site.runtime, &id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(status.started_at >= status.created_at && status.finished_at >= status.started_at);
    let log = site.log("life.log");
    for line in [
        "stdout F out",
        "stderr F err",
        "F /made/here",
        "F home /root",
    ] {
        assert!(log.contains(line), "{log}");
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_in_a_container_of_another_runtime_and_leave_nothing() {
    let mut site = Site::new().await;
    let id = site.run(&pod::container("exec", "sleep 1000")).await;
    let done = site
        .exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 3"], 20)
        .await
        .unwrap();
    assert_eq!(
        (done.exit_code, &*done.stdout, &*done.stderr),
        (3, &b"out\n"[..], &b"err\n"[..])
    );
    let done = site.exec(&id, &["sh", "-c", "kill -9 $$"], 20).await;
    assert_eq!(done.unwrap().exit_code, 137);

    let missing = site.exec(&id, &["no-such-program"], 20).await.unwrap_err();
    assert!(missing.message().contains("no-such-program"), "{missing}");

    // One that has gone into the background, away from its parent and its session.
    let script = "setsid sh -c 'sleep 987 & sleep 986' & trap '' TERM; sleep 985";
    let late = site.exec(&id, &["sh", "-c", script], 1).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    let left = pod::output(&mut site.runtime, &id, "ps").await.unwrap();
    assert!(!left.contains("sleep 98"), "{left}");

    // A background process keeps nobody waiting.
    let done = site.exec(&id, &["sh", "-c", "sleep 984 & echo gone"], 20);
    assert_eq!(done.await.unwrap().stdout, b"gone\n");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_another_runtime_may_have_a_terminal() {
    let mut site = Site::new().await;
    let mut config = pod::container("terminal", "sleep 1000");
    pod::security(&mut config).run_as_user = Some(cri::Int64Value { value: 1000 });
    let id = site.run(&config).await;
    for protocol in PROTOCOLS {
        let sized = "until [ \"$(stty size 2>/dev/null)\" = '50 100' ]; do sleep 0.05; done";
        let says =
            "tty | tr -d 0-9; stat -c %u $(tty); echo $TERM $FROM_IMAGE $HOME; seq 200 >&2; exit 3";
        let mut request = streams::exec_request(&id, &format!("{sized}; {says}"));
        (request.tty, request.stderr) = (true, false);
        let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
        let mut command = command.await.unwrap();
        command.args(["--sizes", "80x24,100x50"]);
        let output = streams::run(command, b"").unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        let numbers = (1..=200).map(|number| format!("{number}\r\n"));
        let numbers = numbers.collect::<String>();
        let want = format!("/dev/pts/\r\n1000\r\nxterm yes /home/app\r\n{numbers}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), want);

        let mut request = streams::exec_request(&id, "");
        request.cmd = vec!["no-such-program".into()];
        (request.tty, request.stderr) = (true, false);
        let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
        let output = streams::run(command.await.unwrap(), b"").unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("no-such-program"), "{text}");
    }
    let bundle = format!("{}/containers/{id}/bundle", site.node.state().display());
    let left = site.node.shell(&format!("ls {bundle}")).unwrap();
    assert!(!left.contains("exec-"), "{left}");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sends_its_signal_and_kills_what_does_not_end() {
    let mut site = Site::new().await;
    let loops = "while :; do sleep 0.05; done";
    let polite = format!("trap 'exit 5' TERM; echo ready; {loops}");
    let id = site.run_ready(&pod::container("polite", &polite)).await;
    pod::stop(&mut site.runtime, &id, 1000).await.unwrap();
    let status = pod::status(&mut site.runtime, &id).await.unwrap();
    assert_eq!(status.exit_code, 5);

    let stubborn = format!("trap '' TERM; setsid sleep 983 & echo ready; {loops}");
    let id = site.run_ready(&pod::container("stubborn", &stubborn)).await;
    pod::stop(&mut site.runtime, &id, 1).await.unwrap();
    let status = pod::status(&mut site.runtime, &id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));

    // One that was never started.
    let id = site
        .create(&pod::container("created", loops))
        .await
        .unwrap();
    pod::stop(&mut site.runtime, &id, 1000).await.unwrap();
    let status = pod::status(&mut site.runtime, &id).await.unwrap();
    assert_eq!(status.exit_code, 137);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_another_runtime_is_held_to_its_memory_and_its_end_is_told() {
    let mut site = Site::new().await;
    let mut config = pod::container("hungry", "");
    pod::resources(&mut config).memory_limit_in_bytes = 40 << 20;
    config.command = vec![
        "awk".into(),
        "BEGIN { x = \"x\"; while (1) x = x x }".into(),
    ];
    let id = site.run(&config).await;
    let status = pod::exited(&site.runtime, &id).await.unwrap();
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled")
    );
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_and_runtimes_that_cannot_be_run_are_told_by_name() {
    let mut tables = handler::oci_table().unwrap();
    tables += &handler::table("gone", "/nonexistent/runtime");
    tables += &handler::table("mute", "/bin/false");
    let node = handler::node(&tables).await.unwrap();
    let mut site = Site::on(node, handler::OCI).await;
    let mut config = pod::container("missing", "");
    config.command = vec!["/no/such/program".into()];
    let id = site.create(&config).await.unwrap();
    let refused = site.start(&id).await.unwrap_err();
    assert!(refused.message().contains("/no/such/program"), "{refused}");
    let status = pod::exited(&site.runtime, &id).await.unwrap();
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (128, "StartError")
    );
    let message = status.message.to_lowercase();
    assert!(message.contains("no such file or directory"), "{message}");

    let mut unknown = pod::container("unknown", "true");
    pod::security(&mut unknown).run_as_username = "nobody-here".into();
    let refused = site.create(&unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("nobody-here"), "{refused}");

    for (name, words) in [("gone", "/nonexistent/runtime"), ("mute", "exited with 1")] {
        let config = pod::host_network_pod(name);
        let pod = handler::run_pod(&mut site.runtime, &config, name)
            .await
            .unwrap();
        let kept = std::mem::replace(&mut site.pod, pod.clone());
        let made = site.create(&pod::container("x", "true")).await;
        let refused = match made {
            Ok(id) => site.start(&id).await.unwrap_err(),
            Err(refused) => refused,
        };
        assert!(refused.message().contains(words), "{refused}");
        pod::remove_pod(&mut site.runtime, &pod).await.unwrap();
        site.pod = kept;
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_are_listed_and_an_unknown_one_is_refused_by_name() {
    let site = Site::new().await;
    let mut runtime = site.runtime.clone();
    let config = pod::host_network_pod("unknown");
    let refused = handler::run_pod(&mut runtime, &config, "kata")
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for word in ["\"kata\"", "\"\"", "\"corten\"", "\"oci\""] {
        assert!(refused.message().contains(word), "{refused}");
    }
    let status = runtime.status(cri::StatusRequest::default()).await.unwrap();
    let handlers = status.into_inner().runtime_handlers;
    let names: Vec<_> = handlers
        .iter()
        .map(|handler| handler.name.as_str())
        .collect();
    assert_eq!(names, ["", "corten", handler::OCI]);
    for handler in &handlers {
        let features = handler.features.unwrap();
        assert!(features.recursive_read_only_mounts, "{handler:?}");
        let is_external = handler.name == handler::OCI;
        assert!(!(is_external && features.user_namespaces), "{handler:?}");
    }
    for name in ["", "corten"] {
        let config = pod::host_network_pod(&format!("own-{name}"));
        handler::run_pod(&mut runtime, &config, name).await.unwrap();
    }
    let pods = runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await
        .unwrap();
    let mut shown: Vec<_> = pods
        .into_inner()
        .items
        .into_iter()
        .map(|pod| pod.runtime_handler)
        .collect();
    shown.sort();
    assert_eq!(shown, ["", "corten", handler::OCI]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_namespace_on_another_runtime_is_refused_by_name() {
    let mut site = Site::new().await;
    let mut config = pod::host_network_pod("users");
    let linux = config.linux.get_or_insert_default();
    let options = linux.security_context.get_or_insert_default();
    let options = options.namespace_options.get_or_insert_default();
    let ids = vec![cri::IdMapping {
        host_id: 200_000,
        container_id: 0,
        length: 65_536,
    }];
    options.userns_options = Some(cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: ids.clone(),
        gids: ids,
    });
    let refused = handler::run_pod(&mut site.runtime, &config, handler::OCI)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    for word in ["\"oci\"", "user namespace", "hostUsers"] {
        assert!(refused.message().contains(word), "{refused}");
    }
    site.end().await;
}

async fn shown_handler(site: &mut Site) -> String {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: site.pod.clone(),
        verbose: false,
    };
    let reply = site.runtime.pod_sandbox_status(request).await.unwrap();
    reply.into_inner().status.unwrap().runtime_handler
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_another_runtime_outlive_the_daemon_and_the_configuration() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut site = Site::new().await;
        let gate = site.node.dir().join("gate");
        let mut mortal =
            pod::container("mortal", "until [ -e /gate ]; do sleep 0.05; done; exit 42");
        mortal.command[2] = mortal.command[2].replace("/gate", "/dir/logs/../gate");
        mortal.mounts = vec![pod::mount(site.node.dir(), "/dir")];
        let mortal = site.run(&mortal).await;
        let lasting = site.run(&pod::container("lasting", "sleep 1000")).await;
        let waiting = pod::container("waiting", "sleep 1000");
        let waiting = site.create(&waiting).await.unwrap();
        site.node.end_daemon(signal).unwrap();
        fs::write(&gate, "").unwrap();
        let exit = format!("{}/containers/{mortal}/exit", site.node.state().display());
        site.node
            .shell_until(&format!("test -e {exit}"))
            .await
            .unwrap();
        // The handler is gone from the configuration.
        fs::write(site.node.dir().join("config.toml"), "").unwrap();
        site.node.start_daemon().await.unwrap();
        site.runtime = site.node.runtime().await.unwrap();
        assert_eq!(shown_handler(&mut site).await, handler::OCI);
        let status = pod::status(&mut site.runtime, &mortal).await.unwrap();
        assert_eq!(status.exit_code, 42);
        let hello = pod::output(&mut site.runtime, &lasting, "echo hello").await;
        assert_eq!(hello.unwrap(), "hello\n");
        site.start(&waiting).await.unwrap();
        pod::stop(&mut site.runtime, &waiting, 0).await.unwrap();
        let refused = site
            .create(&pod::container("new", "true"))
            .await
            .unwrap_err();
        assert!(refused.message().contains("\"oci\""), "{refused}");
        site.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_while_it_creates_leaves_nothing() {
    let steps = [
        "shim.sock",
        "bundle/rootfs",
        "bundle/config.json",
        // runc's state.json, crun's status.
        "runtime/*/stat*",
    ];
    for (number, step) in steps.into_iter().enumerate() {
        let mut site = Site::new().await;
        let config = pod::container(&format!("step-{number}"), "sleep 1000");
        let (mut runtime, pod) = (site.runtime.clone(), site.pod.clone());
        let call = tokio::spawn(async move { pod::create(&mut runtime, &pod, &config).await });
        let path = format!("{}/containers/*/{step}", site.node.state().display());
        site.node
            .shell(&format!(
                "n=0; until ls {path} >/dev/null 2>&1 || [ $n = 5000 ]; do n=$((n + 1)); done"
            ))
            .unwrap();
        site.node.end_daemon(Signal::SIGKILL).unwrap();
        let _ = call.await.unwrap();
        site.node.start_daemon().await.unwrap();
        site.runtime = site.node.runtime().await.unwrap();
        site.end().await;
    }
}
