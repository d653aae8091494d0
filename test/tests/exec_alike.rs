//! A command in a container is as the container's own process is, by whichever way it came; and it may come as long as that
//! one runs.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, process::Child};

use corten_proto::cri;
use corten_test::{
    node::Node,
    pod,
    streams::{self, PROTOCOLS, Protocol},
    wait::until,
};
use tonic::Code;

/// What a process is, line by line, but for what a shell and a terminal add.
const IS: &str = "id; pwd; umask; ulimit -a; cat /proc/self/oom_score_adj /proc/self/attr/current 2>/dev/null; \
                  sed 's:/exec-[0-9]*$::; s:/$::' /proc/self/cgroup; \
                  grep -E '^(Groups|Cap[A-Za-z]*|NoNewPrivs|Seccomp):' /proc/self/status; \
                  for name in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$name; done; \
                  env | sort | grep -vE '^(SHLVL|_|PWD|OLDPWD|TERM)='";

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    async fn new() -> Self {
        let (node, runtime, pod) = streams::site(&[]).await.unwrap();
        Self { node, runtime, pod }
    }

    async fn run(&mut self, config: &cri::ContainerConfig) -> String {
        let ran = pod::run(&mut self.runtime, &self.pod, config).await;
        ran.unwrap()
    }

    /// What a session's command prints, on a terminal or without.
    async fn session(
        &mut self,
        container: &str,
        script: &str,
        protocol: Protocol,
        tty: bool,
    ) -> String {
        let mut request = streams::exec_request(container, script);
        (request.tty, request.stderr) = (tty, !tty);
        let command = streams::exec(&self.node, &mut self.runtime, request, protocol);
        let output = streams::run(command.await.unwrap(), b"").unwrap();
        assert_eq!(output.status.code(), Some(0), "{protocol:?}, tty {tty}");
        String::from_utf8(output.stdout).unwrap().replace('\r', "")
    }
}

/// A container whose every setting differs from the default.
fn special() -> cri::ContainerConfig {
    let mut config = pod::container("special", &format!("{IS}; exec sleep 3600"));
    config.working_dir = "/made/here".into();
    let variable = |key: &str, value: &[u8]| cri::KeyValue {
        key: key.into(),
        value: value.into(),
    };
    config.envs = vec![
        variable("FROM", b"the request"),
        variable("PATH", b"/bin:/elsewhere"),
        variable("EMPTY", b""),
    ];
    let security = pod::security(&mut config);
    security.run_as_user = Some(cri::Int64Value { value: 1234 });
    security.run_as_group = Some(cri::Int64Value { value: 2345 });
    security.supplemental_groups = vec![3456, 4567];
    security.no_new_privs = true;
    security.capabilities = Some(cri::Capability {
        add_capabilities: vec!["NET_ADMIN".into()],
        drop_capabilities: vec!["CHOWN".into()],
        add_ambient_capabilities: vec!["NET_RAW".into()],
    });
    let profile = cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
        ..Default::default()
    };
    security.seccomp = Some(profile);
    pod::resources(&mut config).oom_score_adj = 321;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_what_the_containers_process_is() {
    let mut site = Site::new().await;
    let container = site.run(&special()).await;
    let log = site.node.dir().join("logs/special.log");
    let own = until(|| async {
        let log = fs::read_to_string(&log).unwrap_or_default();
        let lines = log.lines().filter_map(|line| line.split_once("stdout F "));
        let text: String = lines.map(|(_, line)| format!("{line}\n")).collect();
        let whole = text.contains("FROM=the request");
        whole.then_some(text.clone()).ok_or(text)
    });
    let own = own.await.unwrap();
    for part in [
        "uid=1234 gid=2345",
        "4567",
        "/made/here",
        "CapAmb:\t0000000000002000",
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
        "\n321\n",
    ] {
        assert!(own.contains(part), "{own}");
    }
    let synced = pod::output(&mut site.runtime, &container, IS).await;
    assert_eq!(synced.unwrap(), own);
    for protocol in PROTOCOLS {
        for tty in [false, true] {
            let seen = site.session(&container, IS, protocol, tty).await;
            assert_eq!(seen, own, "{protocol:?}, tty {tty}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_on_a_terminal_knows_of_what_kind_it_is() {
    let mut site = Site::new().await;
    let mut config = pod::container("plain", "exec sleep 3600");
    let plain = site.run(&config).await;
    config = pod::container("own", "exec sleep 3600");
    config.envs = vec![cri::KeyValue {
        key: "TERM".into(),
        value: "vt100".into(),
    }];
    let own = site.run(&config).await;
    for protocol in PROTOCOLS {
        for (container, tty, want) in [
            (&plain, false, "none\n"),
            (&plain, true, "xterm\n"),
            (&own, true, "vt100\n"),
        ] {
            let seen = site
                .session(container, "echo ${TERM-none}", protocol, tty)
                .await;
            assert_eq!(seen, want, "{protocol:?}, tty {tty}");
        }
    }
}

/// Until it is there.
async fn file(site: &Site, container: &str, path: &str) {
    let script = format!("test -e {path}");
    let there = || async { pod::output(&mut site.runtime.clone(), container, &script).await };
    until(there).await.unwrap();
}

/// A session that runs until it is ended.
async fn lasting(site: &mut Site, container: &str, protocol: Protocol) -> Child {
    let script = "echo begun >> /begun; exec sleep 3600";
    let request = streams::exec_request(container, script);
    let command = streams::exec(&site.node, &mut site.runtime, request, protocol);
    command.await.unwrap().spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_in_a_container_that_is_stopping_until_it_is_killed() {
    let mut site = Site::new().await;
    let script = "trap 'echo told > /told' TERM; touch /ready; while :; do sleep 0.05; done";
    let container = site.run(&pod::container("stops", script)).await;
    let (runtime, stopped) = (site.runtime.clone(), container.clone());
    let stop = |seconds| {
        let (mut runtime, container) = (runtime.clone(), stopped.clone());
        tokio::spawn(async move { pod::stop(&mut runtime, &container, seconds).await })
    };
    file(&site, &container, "/ready").await;
    let stopping = stop(3600);
    file(&site, &container, "/told").await;
    // As the kubelet's preStop hook, and as somebody who looks what takes so long.
    for protocol in PROTOCOLS {
        for tty in [false, true] {
            let seen = site.session(&container, "cat /told", protocol, tty).await;
            assert_eq!(seen, "told\n");
        }
    }
    let mut sessions = Vec::new();
    for protocol in PROTOCOLS {
        sessions.push(lasting(&mut site, &container, protocol).await);
    }
    until(|| async {
        let begun = pod::output(&mut site.runtime.clone(), &container, "cat /begun").await?;
        anyhow::ensure!(begun == "begun\nbegun\n", "{begun}");
        Ok(())
    })
    .await
    .unwrap();
    assert!(!stopping.is_finished());
    stop(0).await.unwrap().unwrap();
    stopping.await.unwrap().unwrap();
    for session in &mut sessions {
        assert_eq!(session.wait().unwrap().code(), Some(137));
    }
    let late = streams::exec_request(&container, "true");
    let late = site.runtime.exec(late).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
}
