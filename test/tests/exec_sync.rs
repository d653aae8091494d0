//! ExecSync: what a probe or hook gets, however its command behaves.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    time::{Duration, Instant},
};

use corten_proto::cri;
use corten_test::{leftovers::Leftovers, node::Node, pod, streams, wait::until};
use tonic::Code;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    container: String,
}

async fn site(options: &[&str]) -> Site {
    let (node, mut runtime, pod_id) = streams::site(options).await.unwrap();
    let config = pod::container("main", "exec sleep 3600");
    let container = pod::run(&mut runtime, &pod_id, &config).await.unwrap();
    Site {
        node,
        runtime,
        container,
    }
}

impl Site {
    async fn exec(
        &mut self,
        script: &str,
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, tonic::Status> {
        let request = cri::ExecSyncRequest {
            container_id: self.container.clone(),
            cmd: vec!["sh".into(), "-c".into(), script.into()],
            timeout,
        };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    /// How many processes in the container are `sleep SECONDS`.
    async fn sleeps(&mut self, seconds: u32) -> String {
        let script = format!("ps | grep -c '[s]leep {seconds}$'; true");
        let counted = pod::output(&mut self.runtime, &self.container, &script).await;
        counted.unwrap().trim().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_ends_all_that_the_command_has_started() {
    let mut site = site(&[]).await;
    // Away from its parent, its session and its signals; and one that keeps having children.
    let scripts = [
        "setsid sh -c 'sleep 987 & (sleep 987 &) & trap \"\" TERM HUP; sleep 987' & sleep 987",
        "trap '' TERM HUP INT; (setsid sh -c 'while :; do sleep 987 & sleep 0.01; done' &); sleep 987",
        "sleep 987 & kill -STOP $!; kill -STOP $$",
    ];
    for script in scripts {
        let late = site.exec(script, 1).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
        assert!(late.message().contains("1s"), "{late}");
        assert_eq!(site.sleeps(987).await, "0", "{script}");
    }
    // Nothing else has come to harm.
    assert_eq!(site.exec("exit 3", 0).await.unwrap().exit_code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_leaves_behind_may_print_as_long_as_configured() {
    let mut site = site(&["--exec-drain-timeout", "3600"]).await;
    // Longer than the default.
    let script = "(sleep 4; echo late; echo later >&2) & echo now; exit 3";
    let done = site.exec(script, 0).await.unwrap();
    assert_eq!(
        (&*done.stdout, &*done.stderr, done.exit_code),
        (&b"now\nlate\n"[..], &b"later\n"[..], 3)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_has_printed_is_told_without_waiting_for_others() {
    let mut site = site(&["--exec-drain-timeout", "0"]).await;
    let begun = Instant::now();
    for _ in 0..20 {
        // As much as a pipe holds.
        let script = "sleep 986 & head -c 65536 /dev/zero; echo said >&2; exit 4";
        let done = site.exec(script, 0).await.unwrap();
        assert_eq!(
            (done.stdout.len(), &*done.stderr, done.exit_code),
            (65_536, &b"said\n"[..], 4)
        );
    }
    // By default each would take 2 s.
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    // They live on.
    assert_eq!(site.sleeps(986).await, "20");
}

/// Children, threads and descriptors of the daemon, and the same of its one shim.
fn held(node: &Node) -> Vec<usize> {
    let daemon = node.daemon_pid().unwrap();
    let shim = children(daemon)[0];
    let count = |path: String| fs::read_dir(path).unwrap().count();
    let of = |pid: i32| {
        let (tasks, fds) = (format!("/proc/{pid}/task"), format!("/proc/{pid}/fd"));
        [children(pid).len(), count(tasks), count(fds)]
    };
    [of(daemon), of(shim)].concat()
}

/// Whichever thread has made them; zombies, too.
fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
    let lists = lists.map(Result::unwrap_or_default).collect::<String>();
    let pids = lists.split_whitespace();
    pids.map(|pid| pid.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_leave_nothing() {
    let mut site = site(&["--exec-drain-timeout", "0"]).await;
    for _ in 0..20 {
        site.exec("exit 0", 5).await.unwrap();
    }
    let (before, made) = (held(&site.node), Leftovers::count(&site.node).unwrap());
    for number in 0..1000 {
        let code = number % 100;
        let outcome = match number % 50 {
            // Given up, killed, and not there at all.
            0 => {
                let call = site.exec("sleep 985", 0);
                let _ = tokio::time::timeout(Duration::from_millis(10), call).await;
                continue;
            }
            1 => site.exec("kill -9 $$", 5).await.map(|done| done.exit_code),
            2 => site
                .exec("exec /no/such 2>&1", 5)
                .await
                .map(|done| done.exit_code),
            _ => site
                .exec(&format!("(sleep 0 &); echo; exit {code}"), 5)
                .await
                .map(|done| done.exit_code),
        };
        let want = match number % 50 {
            1 => 137,
            2 => 127,
            _ => code,
        };
        assert_eq!(outcome.unwrap(), want);
    }
    Leftovers::settle(&site.node, &made).await.unwrap();
    until(|| async {
        let now = held(&site.node);
        anyhow::ensure!(
            now.iter().zip(&before).all(|(now, before)| now <= before),
            "children, threads, descriptors of the daemon, then of the shim: {before:?}, now {now:?}"
        );
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(site.sleeps(985).await, "0");
}
