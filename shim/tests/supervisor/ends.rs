//! Ends: by itself, by a stop, for want of memory, of a program that cannot be run; and of the shim.

use std::time::{Duration, Instant};

use corten_proto::shim::{
    Failure, FailureKind, Hello, HugepageLimit, Phase, Resources, Shutdown, Start, Stop,
    reply::Result as Answer, request::Call,
};

use crate::site::{Client, Site, eventually, words};

const SIGTERM: i32 = 15;

fn stop(client: &mut Client, signal: i32, timeout_ms: u64) {
    let answer = client.call(Call::Stop(Stop { signal, timeout_ms }));
    assert!(matches!(answer, Ok(Answer::Done(_))), "{answer:?}");
}

/// Waits until the container's script has said that it is ready.
fn ready(site: &Site) {
    eventually("the script is ready", || {
        site.log("0.log").contains("ready")
    });
}

#[test]
fn the_stop_signal_is_sent_once() {
    let mut site = Site::new();
    let script = "n=0; trap 'n=$((n+1)); echo signal' TERM; trap 'exit $n' USR1; echo ready; while :; do sleep 0.05; done";
    let mut client = site.start(script);
    ready(&site);
    stop(&mut client, SIGTERM, 60_000);
    eventually("the signal has come", || {
        site.log("0.log").contains("signal")
    });
    stop(&mut client, SIGTERM, 50_000);
    assert_eq!(client.exec_to_end("kill -USR1 1").0, 0);
    let mut event = client.receive().expect("the end");
    while event.id != 0 {
        event = client.receive().expect("the end");
    }
    let Some(Answer::Exited(exited)) = event.result else {
        panic!("{event:?}")
    };
    assert_eq!(exited.code, 1);
    site.shim_ends();
}

#[test]
fn a_stop_that_is_over_kills_everything() {
    let mut site = Site::new();
    let script = "trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo ready; while :; do sleep 1; done";
    let mut client = site.start(script);
    ready(&site);
    let begin = Instant::now();
    stop(&mut client, SIGTERM, 200);
    let exited = client.exited();
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert_eq!((exited.code, exited.oom_killed), (137, false));
    site.shim_ends();
}

#[test]
fn a_deadline_only_comes_nearer() {
    let mut site = Site::new();
    let mut client = site.start("trap '' TERM; echo ready; while :; do sleep 1; done");
    ready(&site);
    let begin = Instant::now();
    stop(&mut client, SIGTERM, 86_400_000);
    stop(&mut client, SIGTERM, 300);
    stop(&mut client, SIGTERM, 60_000);
    assert_eq!(client.exited().code, 137);
    assert!(begin.elapsed() < Duration::from_secs(20));
    site.shim_ends();
}

#[test]
fn a_created_container_is_killed_at_once() {
    let mut site = Site::new();
    let mut client = site.connect();
    client.create(site.plan("true")).unwrap();
    stop(&mut client, SIGTERM, 86_400_000);
    assert_eq!(client.exited().code, 137);
    site.shim_ends();
}

#[test]
fn a_program_that_cannot_be_run_is_an_end_with_a_message() {
    let mut site = Site::new();
    let mut plan = site.plan("");
    plan.process.as_mut().unwrap().args = words(&["/no/such"]);
    let mut client = site.connect();
    client.create(plan).unwrap();
    let failure = client.call(Call::Start(Start {})).unwrap_err();
    assert_eq!(
        (failure.kind(), failure.errno, &*failure.subject),
        (FailureKind::FailureExec, 2, "/no/such")
    );
    let exited = client.exited();
    assert_eq!(exited.code, 128);
    assert!(exited.message.contains("/no/such"), "{}", exited.message);
    assert_eq!(site.exit_file(), Some(exited));
    site.shim_ends();
}

#[test]
fn what_cannot_be_created_leaves_nothing() {
    let mut site = Site::new();
    let mut plan = site.plan("true");
    plan.process.as_mut().unwrap().user.as_mut().unwrap().spec = "nobody-knows".into();
    let mut client = site.connect();
    let failure = client.create(plan).unwrap_err();
    assert_eq!(failure.subject, "nobody-knows");
    assert!(client.receive().is_none());
    site.shim_ends();
    assert_eq!(site.exit_file(), None);
}

#[test]
fn want_of_memory_is_told() {
    let mut site = Site::new();
    let mut plan =
        site.plan("dd if=/dev/zero of=/dev/null bs=200M count=1; kill -KILL $$; exit 137");
    plan.cgroup.as_mut().unwrap().resources = Some(Resources {
        memory_limit: 32 << 20,
        memory_and_swap_limit: 32 << 20,
        ..Resources::default()
    });
    let mut client = site.connect();
    client.create(plan).unwrap();
    client.call(Call::Start(Start {})).unwrap();
    let exited = client.exited();
    assert_eq!((exited.code, exited.oom_killed), (137, true));
    site.shim_ends();
}

#[test]
fn huge_pages_that_the_host_cannot_limit_are_told_and_no_obstacle() {
    let mut site = Site::new();
    let mut plan = site.plan("exit 4");
    let limit = |page_size: &str, limit| HugepageLimit {
        page_size: page_size.into(),
        limit,
    };
    plan.cgroup.as_mut().unwrap().resources = Some(Resources {
        // Sizes that no machine has.
        hugepage_limits: vec![limit("3MB", 3 << 20), limit("5MB", 0)],
        ..Resources::default()
    });
    let mut client = site.connect();
    let Ok(Answer::Created(created)) = client.create(plan) else {
        panic!("it is not created");
    };
    let told: Vec<_> = created
        .warnings
        .iter()
        .filter(|text| text.contains("huge pages"))
        .collect();
    assert_eq!(
        told,
        ["huge pages of 3MB are not limited: this host has no hugetlb controller"]
    );
    client.call(Call::Start(Start {})).unwrap();
    assert_eq!(client.exited().code, 4);
    site.shim_ends();
}

#[test]
fn a_shim_without_a_container_does_not_outlive_the_daemon() {
    let mut site = Site::new();
    let mut client = site.connect();
    client.call(Call::Hello(Hello { version: 1 })).unwrap();
    assert!(site.shim.try_wait().unwrap().is_none());
    drop(client);
    site.shim_ends();
}

#[test]
fn a_container_outlives_the_daemon() {
    let mut site = Site::new();
    let mut client = site.connect();
    client
        .create(site.plan("echo ready; sleep 0.2; exit 6"))
        .unwrap();
    drop(client);
    let mut client = site.connect();
    match client.call(Call::Hello(Hello { version: 9 })).unwrap() {
        Answer::Hello(hello) => {
            assert_eq!(hello.phase(), Phase::Created);
            assert!(hello.init_pid > 0);
        }
        other => panic!("{other:?}"),
    }
    let Ok(Answer::Started(started)) = client.call(Call::Start(Start {})) else {
        panic!("it does not tell the time");
    };
    drop(client);
    site.shim_ends();
    let exited = site.exit_file().unwrap();
    assert_eq!(exited.code, 6);
    assert!(started.at_ns > 0 && exited.at_ns >= started.at_ns);
    assert_eq!(exited.started_at_ns, started.at_ns);
    assert_eq!(site.log("0.log"), "stdout F ready\n");
}

#[test]
fn shutdown_is_for_what_never_ran() {
    let mut site = Site::new();
    let mut client = site.start("sleep 1000");
    let refused: Failure = client.call(Call::Shutdown(Shutdown {})).unwrap_err();
    assert_eq!(refused.kind(), FailureKind::FailurePhase);
    stop(&mut client, SIGTERM, 0);
    assert_eq!(client.exited().code, 137);
    site.shim_ends();

    let mut site = Site::new();
    let mut client = site.connect();
    client.create(site.plan("true")).unwrap();
    client.call(Call::Shutdown(Shutdown {})).unwrap();
    site.shim_ends();
}

#[test]
fn a_background_process_does_not_hold_the_end() {
    let mut site = Site::new();
    let mut client = site.start("sleep 1000 & echo ready; exit 8");
    let begin = Instant::now();
    assert_eq!(client.exited().code, 8);
    assert!(begin.elapsed() < Duration::from_secs(10));
    site.shim_ends();
}
