//! Further processes in the container.

use std::{
    io::Read,
    time::{Duration, Instant},
};

use corten_proto::shim::{Exec, FailureKind, request::Call};

use crate::site::{Site, eventually, exec_done, words};

#[test]
fn an_exec_tells_its_code_and_output() {
    let site = Site::new();
    let mut client = site.start("sleep 1000");
    assert_eq!(
        client.exec_to_end("echo a; echo b >&2; exit 5"),
        (5, "a\nb\n".into())
    );
    assert_eq!(client.exec_to_end("kill -9 $$").0, 137);
    assert_eq!(site.log("0.log"), "");
}

#[test]
fn execs_run_side_by_side() {
    let site = Site::new();
    let mut client = site.start("sleep 1000");
    let (slow, out) = client.exec("cat /proc/self/stat > /dev/null; sleep 0.3; echo slow", 0);
    let (fast, _) = client.exec("exit 1", 0);
    assert_eq!(exec_done(client.answer(fast)).exit_code, 1);
    assert_eq!(exec_done(client.answer(slow)).exit_code, 0);
    assert_eq!(std::io::read_to_string(out).unwrap(), "slow\n");
}

#[test]
fn the_time_of_an_exec_ends_all_that_it_has_started() {
    let site = Site::new();
    let mut client = site.start("sleep 1000");
    let (id, mut out) = client.exec("(sleep 1000 &); sleep 1000 & echo ready; sleep 1000", 2000);
    let done = exec_done(client.answer(id));
    assert!(done.timed_out);
    // The pipe ends when nobody holds it any more.
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ready\n");
    assert_eq!(client.exec_to_end("echo alive"), (0, "alive\n".into()));
}

#[test]
fn a_background_process_does_not_hold_the_answer() {
    let site = Site::new();
    let mut client = site.start("sleep 1000");
    let begin = Instant::now();
    let (id, _out) = client.exec("sleep 1000 & exit 2", 0);
    assert_eq!(exec_done(client.answer(id)).exit_code, 2);
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn an_exec_ends_with_its_connection() {
    let site = Site::new();
    let mut client = site.start("sleep 1000");
    let mut other = site.connect();
    let (_, mut out) = other.exec("echo ready; sleep 1000", 0);
    out.read_exact(&mut [0; 6]).unwrap();
    drop(other);
    assert_eq!(out.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(client.exec_to_end("exit 0").0, 0);
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let site = Site::new();
    let mut client = site.start("sleep 1000");
    let (id, _out) = client.exec_of(&["no-such"], 0);
    let failure = client.answer(id).unwrap_err();
    assert_eq!(
        (failure.kind(), failure.errno, &*failure.subject),
        (FailureKind::FailureExec, 2, "no-such")
    );
}

#[test]
fn what_cannot_be_run_is_told() {
    let site = Site::new();
    let mut client = site.connect();
    client.create(site.plan("sleep 1000")).unwrap();
    let exec = |stdin| Exec {
        args: words(&["echo"]),
        stdin,
        ..Exec::default()
    };
    let failure = client.call(Call::Exec(exec(false))).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailurePhase);
    client
        .call(Call::Start(corten_proto::shim::Start {}))
        .unwrap();
    let failure = client.call(Call::Exec(exec(true))).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailureInvalid);
    // Nothing of the host's takes the place of its outputs.
    let failure = client.call(Call::Exec(exec(false))).unwrap_err();
    assert_eq!(
        (failure.kind(), &*failure.subject),
        (FailureKind::FailureInvalid, "stdout")
    );
    let failure = client.call(Call::Exec(Exec::default())).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailureInvalid);
}

#[test]
fn an_exec_is_answered_when_the_container_ends() {
    let mut site = Site::new();
    let mut client = site.start("cat /proc/self/stat >/dev/null; sleep 0.3; exit 9");
    let (id, _out) = client.exec("sleep 1000", 0);
    assert_eq!(exec_done(client.answer(id)).exit_code, 137);
    assert_eq!(client.exited().code, 9);
    site.shim_ends();
}

#[test]
fn many_execs_leave_nothing() {
    let mut site = Site::new();
    let mut client = site.start("sleep 1000");
    let fds = format!("/proc/{}/fd", site.shim.id());
    let count = || std::fs::read_dir(&fds).unwrap().count();
    assert_eq!(client.exec_to_end("exit 0").0, 0);
    let before = count();
    for number in 0..50 {
        assert_eq!(client.exec_to_end(&format!("exit {number}")).0, number);
    }
    assert_eq!(count(), before);
    eventually("only init is left", || site.processes().len() == 1);
    let unified = std::path::Path::new("/sys/fs/cgroup/unified").join(&site.cgroup[1..]);
    if unified.exists() {
        let left = std::fs::read_dir(unified).unwrap().flatten();
        let left: Vec<_> = left.filter(|entry| entry.path().is_dir()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    client
        .call(Call::Stop(corten_proto::shim::Stop::default()))
        .unwrap();
    client.exited();
    site.shim_ends();
}

#[test]
fn an_exec_that_is_killed_at_any_step_leaves_no_process() {
    let mut site = Site::new();
    let mut client = site.start("sleep 1000");
    for number in 0..200 {
        // While it is set up, while the process that stays is made, and after that.
        let (id, _out) = client.exec("sleep 1000", number % 8 + 1);
        assert!(exec_done(client.answer(id)).timed_out);
    }
    eventually("only init is left", || site.processes().len() == 1);
    // A zombie in its PID namespace would hold it up.
    client
        .call(Call::Stop(corten_proto::shim::Stop::default()))
        .unwrap();
    client.exited();
    site.shim_ends();
}
