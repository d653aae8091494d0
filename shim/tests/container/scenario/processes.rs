//! Init, its program, and further processes.

use std::{fs, os::fd::AsFd};

use corten_proto::shim::{FailureKind, Namespace, Plan, namespace::From};
use corten_sys::cgroup::Hierarchies;
use rustix::{
    event::{PollFd, PollFlags, poll},
    pipe::{PipeFlags, pipe_with},
};

use super::{Scenario, check, process, scenarios};
use crate::{
    container,
    site::{Site, create, run},
};

pub(super) const ALL: &[(&str, Scenario)] = scenarios![
    a_container_is_isolated,
    devices_and_links_are_there,
    a_missing_program_is_told_at_start,
    exec_runs_in_the_container,
    an_exec_is_killed_with_its_children,
    a_terminal_is_the_streams,
    a_pid_namespace_is_joined,
    a_terminal_is_the_streams_in_a_joined_pid_namespace,
    an_exec_in_a_dead_container_is_told,
];

fn a_container_is_isolated(site: &Site) {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let script =
        "echo $$; cat /proc/self/cgroup | head -3; ls /; ls /sys/fs/cgroup | head -2; exit 7";
    let outcome = run(site.plan(script)).unwrap();
    let hierarchies = Hierarchies::detect().unwrap();
    let in_own_cgroup = outcome
        .out
        .lines()
        .filter(|line| line.ends_with(":/"))
        .count();
    assert!(outcome.out.starts_with("1\n"), "{}", outcome.out);
    assert_eq!(
        in_own_cgroup,
        3.min(hierarchies.v1.len() + 1),
        "{}",
        outcome.out
    );
    assert!(
        !outcome.out.contains("root\n"),
        "the template's root is seen: {}",
        outcome.out
    );
    assert_eq!(outcome.code, 7);
    assert_eq!(before, fs::read_to_string("/proc/self/mountinfo").unwrap());
    // The writable layer has what mounting has made, and nothing of the host.
    assert!(fs::metadata(site.dir.join("upper/proc")).unwrap().is_dir());
}

fn devices_and_links_are_there(site: &Site) {
    let script = "for n in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$n; done; \
        readlink /dev/fd; readlink /dev/ptmx; cat /dev/stdin; echo x > /dev/stdout; ls /dev/pts";
    let nodes = "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666\n";
    check(
        site.plan(script),
        &format!("{nodes}/proc/self/fd\npts/ptmx\nx\nptmx\n"),
    );
}

fn a_missing_program_is_told_at_start(site: &Site) {
    let mut plan = site.plan("");
    process(&mut plan).args = vec![b"no-such-program".to_vec()];
    let mut waiting = create(plan).unwrap();
    let failure = waiting.start().unwrap_err();
    assert_eq!(
        (failure.kind(), failure.errno),
        (FailureKind::FailureExec, nix::libc::ENOENT)
    );
    assert_eq!(failure.subject, "no-such-program");
    assert_eq!(waiting.finish().code, 127);
}

fn exec_runs_in_the_container(site: &Site) {
    // The last number is how many namespaces differ from those of init.
    const SCRIPT: &str = "echo $COLOUR $HOME; cat /proc/1/comm; readlink /proc/self/cwd; id -G; \
        n=0; for s in mnt net ipc uts pid cgroup; do [ $(readlink /proc/1/ns/$s) = $(readlink /proc/self/ns/$s) ] || n=$((n+1)); done; \
        echo $n; exit 5";
    let mut plan = site.plan("touch /ready; sleep 1000");
    process(&mut plan).env.push(b"COLOUR=blue".to_vec());
    let mut waiting = create(plan).unwrap();
    waiting.start().unwrap();
    while !site.dir.join("upper/ready").exists() {
        std::thread::yield_now();
    }
    let (code, out) = waiting.exec(SCRIPT).unwrap();
    assert_eq!((out.as_str(), code), ("blue /root\nsleep\n/\n0 10\n0\n", 5));
    for number in 0..3 {
        assert_eq!(waiting.exec(&format!("exit {number}")).unwrap().0, number);
    }
    let outcome = waiting.kill();
    assert_eq!(outcome.code, 137);
}

fn an_exec_is_killed_with_its_children(site: &Site) {
    let mut waiting = create(site.plan("sleep 1000")).unwrap();
    waiting.start().unwrap();
    let (out, stdout) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let script = "(sleep 1000 & ) ; (sleep 1000 &); echo; sleep 1000";
    let args = ["sh", "-c", script]
        .map(|arg| arg.as_bytes().to_vec())
        .to_vec();
    let stdio = container::Stdio {
        stdin: None,
        stderr: stdout.try_clone().unwrap(),
        stdout,
    };
    let mut exec = container::exec(
        &mut waiting.container,
        args,
        container::Ends::Streams(stdio),
    )
    .unwrap();
    rustix::io::read(&out, &mut [0; 1]).unwrap();
    exec.birth.succeed().unwrap();
    exec.kill().unwrap();
    let ended = corten_sys::process::wait(exec.birth.child().pidfd.as_fd()).unwrap();
    assert_eq!(ended.code(), 137);
    // The pipe ends when nobody holds it any more.
    assert_eq!(rustix::io::read(&out, &mut [0; 1]).unwrap(), 0);
    exec.remove_cgroup();
    let (_, left) = waiting
        .exec("cat /proc/[0-9]*/stat | grep -c ' (sleep) [^Z]'")
        .unwrap();
    // That of init, which does not reap what it has inherited.
    assert_eq!(left.trim(), "1");
    assert_eq!(waiting.kill().code, 137);
}

fn a_terminal_is_the_streams(site: &Site) {
    with_terminal(site.plan(TERMINAL));
}

fn a_terminal_is_the_streams_in_a_joined_pid_namespace(site: &Site) {
    let (join, mut holder) = pid_namespace();
    let mut plan = site.plan(TERMINAL);
    plan.namespaces.as_mut().unwrap().pid = Some(Namespace { from: Some(join) });
    with_terminal(plan);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

const TERMINAL: &str = "readlink /proc/self/fd/0; test -t 0 && test -t 1 && test -t 2 && echo tty > /dev/tty; stat -c %t:%T /dev/console";

fn with_terminal(mut plan: Plan) {
    process(&mut plan).terminal = true;
    let mut waiting = create(plan).unwrap();
    let master = waiting.report.take_descriptor().expect("a terminal");
    waiting.start().unwrap();
    assert_eq!(waiting.finish().code, 0);
    let mut text = [0; 256];
    let length = rustix::io::read(&master, &mut text).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&text[..length]),
        "/dev/pts/0\r\ntty\r\n88:0\r\n"
    );
}

/// A PID namespace that something runs in, and the process that is to be killed to end it.
fn pid_namespace() -> (From, std::process::Child) {
    let holder = std::process::Command::new("unshare")
        .args(["-pf", "--kill-child", "sleep", "1000"])
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", holder.id());
    let pid = loop {
        match fs::read_to_string(&children).unwrap().trim() {
            "" => std::thread::yield_now(),
            pid => break pid.to_owned(),
        }
    };
    (From::Join(format!("/proc/{pid}/ns/pid")), holder)
}

fn a_pid_namespace_is_joined(site: &Site) {
    let (join, mut holder) = pid_namespace();
    let mut plan =
        site.plan("cat /proc/1/comm; [ $$ != 1 ] && echo other; touch /said; sleep 1000");
    plan.namespaces.as_mut().unwrap().pid = Some(Namespace { from: Some(join) });
    let mut waiting = create(plan).unwrap();
    waiting.start().unwrap();
    // Not killed before it has said all.
    let script = "until [ -e /said ]; do sleep 0.01; done; cat /proc/1/comm";
    let seen = waiting.exec(script).unwrap().1;
    let out = waiting.kill().out;
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!((&*out, &*seen), ("sleep\nother\n", "sleep\n"));
}

fn an_exec_in_a_dead_container_is_told(site: &Site) {
    let mut waiting = create(site.plan("exit 0")).unwrap();
    waiting.start().unwrap();
    let pidfd = waiting.container.init.child().pidfd.try_clone().unwrap();
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
    let failure = waiting.exec("true").unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailurePhase, "{failure:?}");
    waiting.finish();
}
