//! What a process of the container can do to the ends of others: the shim neither waits for ever nor runs in circles.

use std::{
    fs::File,
    io::{BufRead, BufReader},
};

use corten_proto::shim::{
    Bind, FailureKind, Mount, MountAttributes, Plan, Start, Stop, mount::Kind, request::Call,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use crate::site::{Client, Site, eventually, exec_done};

/// Perl is in every Debian, and can make any system call. Numbers: syscalls(2).
#[cfg(target_arch = "x86_64")]
const CALLS: &str = "my ($clone, $ptrace) = (56, 101);";
#[cfg(target_arch = "aarch64")]
const CALLS: &str = "my ($clone, $ptrace) = (220, 117);";
/// CLONE_PARENT | SIGCHLD, each time with an end at once.
const SIBLINGS: &str = "for (1..3) { my $pid = syscall($clone, 0x8000 | 17, 0, 0, 0, 0); exit 0 if $pid == 0; \
                        die $! if $pid < 0; }";
/// More than the shim reaps in one turn. They stay.
const MANY: &str = "for (1..700) { my $pid = syscall($clone, 0x8000 | 17, 0, 0, 0, 0); sleep 1000 if $pid == 0; \
                    die $! if $pid < 0; } print \"made\n\"; sleep 1000;";
/// The same once it is told to go on.
const LATER: &str = "print \"ready\\n\"; kill STOP => $$; ";
/// PTRACE_SEIZE, and nothing ever again.
const SEIZE: &str = "syscall($ptrace, 0x4206, PID, 0, 0) == 0 or die $!; print \"seized\\n\"; close STDOUT; \
                     close STDERR; sleep 1000;";

/// With perl and what it is linked with.
fn plan(site: &Site) -> Plan {
    let mut plan = site.plan("sleep 1000");
    let bind = |path: &str| Mount {
        destination: path.into(),
        attributes: Some(MountAttributes {
            readonly: true,
            ..MountAttributes::default()
        }),
        kind: Some(Kind::Bind(Bind {
            source: path.into(),
            ..Bind::default()
        })),
        ..Mount::default()
    };
    plan.mounts.extend(["/usr", "/lib", "/lib64"].map(bind));
    plan
}

fn start(site: &Site) -> Client {
    let mut client = site.connect();
    client.create(plan(site)).unwrap();
    client.call(Call::Start(Start {})).unwrap();
    client
}

fn perl(script: &str) -> [String; 3] {
    let script = format!("$| = 1; {CALLS} {script}");
    ["/usr/bin/perl".into(), "-e".into(), script]
}

fn exec(client: &mut Client, script: &str, timeout_ms: u64) -> (u64, File) {
    let args = perl(script);
    client.exec_of(&args.each_ref().map(String::as_str), timeout_ms)
}

fn line_of(out: File) -> String {
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).unwrap();
    line
}

/// State and processor time, in ticks, of the shim (proc_pid_stat(5)).
fn stat(site: &Site) -> (String, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", site.shim.id())).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
    (fields[0].into(), ticks(11) + ticks(12))
}

/// Waits until the shim has nothing to do: it sleeps each time that it is looked at, and its time stands still.
fn is_quiet(site: &Site) {
    let mut before = stat(site);
    let mut quiet = 0;
    eventually("the shim sleeps", || {
        let now = stat(site);
        let is_same = now == before && now.0 == "S";
        quiet = if is_same { quiet + 1 } else { 0 };
        before = now;
        quiet > 100
    });
}

/// The shim's children, by their lines in proc_pid_stat(5).
fn children(site: &Site) -> Vec<String> {
    let shim = site.shim.id();
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    let of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    children.split_whitespace().map(of).collect()
}

fn zombies(site: &Site) -> usize {
    let all = children(site);
    all.iter().filter(|line| line.contains(") Z ")).count()
}

#[test]
fn siblings_that_a_command_has_made_hold_up_nothing() {
    let mut site = Site::new();
    let mut client = start(&site);
    let (id, _out) = exec(&mut client, SIBLINGS, 0);
    assert_eq!(exec_done(client.answer(id)).exit_code, 0);
    eventually("they are reaped", || zombies(&site) == 0);
    is_quiet(&site);
    client.call(Call::Stop(Stop::default())).unwrap();
    assert_eq!(client.exited().code, 137);
    site.shim_ends();
}

#[test]
fn siblings_are_reaped_without_a_descriptor() {
    let mut site = Site::new();
    let mut client = start(&site);
    let (id, out) = exec(&mut client, &format!("{LATER}{SIBLINGS}"), 0);
    assert_eq!(line_of(out), "ready\n");
    let stopped = || {
        let all = children(&site);
        let line = all.into_iter().find(|line| line.contains("(perl) T "))?;
        Some(Pid::from_raw(line.split_once(' ')?.0.parse().ok()?))
    };
    eventually("it waits", || stopped().is_some());
    let shim = rustix::process::Pid::from_raw(site.shim.id().try_into().unwrap());
    let none = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Nofile)
    };
    let before = prlimit(shim, Resource::Nofile, none).unwrap();
    kill(stopped().unwrap(), Signal::SIGCONT).unwrap();
    assert_eq!(exec_done(client.answer(id)).exit_code, 0);
    eventually("they are reaped", || zombies(&site) == 0);
    is_quiet(&site);
    prlimit(shim, Resource::Nofile, before).unwrap();
    client.call(Call::Stop(Stop::default())).unwrap();
    assert_eq!(client.exited().code, 137);
    site.shim_ends();
}

#[test]
fn more_ends_than_one_turn_deals_with_are_dealt_with() {
    let mut site = Site::new();
    let mut client = start(&site);
    let (id, out) = exec(&mut client, MANY, 0);
    assert_eq!(line_of(out), "made\n");
    let shim = Pid::from_raw(site.shim.id().try_into().unwrap());
    // One signal tells of all.
    kill(shim, Signal::SIGSTOP).unwrap();
    for line in children(&site) {
        if line.contains("(perl)") {
            let pid = line.split_once(' ').unwrap().0;
            kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
        }
    }
    eventually("they have ended", || zombies(&site) == 701);
    kill(shim, Signal::SIGCONT).unwrap();
    assert_eq!(exec_done(client.answer(id)).exit_code, 137);
    eventually("they are reaped", || children(&site).len() == 1);
    is_quiet(&site);
    client.call(Call::Stop(Stop::default())).unwrap();
    assert_eq!(client.exited().code, 137);
    site.shim_ends();
}

#[test]
fn an_end_that_a_tracer_keeps_back_is_an_end() {
    let mut site = Site::new();
    let mut client = start(&site);
    let (traced, out) = exec(&mut client, "print \"$$\\n\"; sleep 1000;", 0);
    let line = line_of(out);
    let seize = SEIZE.replace("PID", line.trim());
    let mut other = site.connect();
    let (_, out) = exec(&mut other, &seize, 0);
    assert_eq!(std::io::read_to_string(out).unwrap(), "seized\n");
    let kill = format!("kill -KILL {}", line.trim());
    let (killer, _out) = other.exec(&kill, 0);
    assert_eq!(exec_done(other.answer(killer)).exit_code, 0);
    assert_eq!(exec_done(client.answer(traced)).exit_code, 137);
    is_quiet(&site);
    // Its tracer's end lets go of it.
    drop(other);
    eventually("it is reaped", || zombies(&site) == 0);
    client.call(Call::Stop(Stop::default())).unwrap();
    assert_eq!(client.exited().code, 137);
    site.shim_ends();
}

/// Takes its working directory away, and puts a link to a volume in its place.
const MOVER: &str = "busybox mv /work /old; echo moved; until [ -e /volume/go ]; do sleep 0.05; done; \
                     busybox ln -s /volume /work; echo linked; sleep 1000";

#[test]
fn a_command_does_not_run_without_its_working_directory_and_makes_none() {
    let mut site = Site::new();
    let volume = site.dir.join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mut plan = site.plan(MOVER);
    plan.process.as_mut().unwrap().cwd = "/work/here".into();
    plan.mounts.push(Mount {
        destination: "/volume".into(),
        attributes: Some(MountAttributes::default()),
        kind: Some(Kind::Bind(Bind {
            source: site.path("volume"),
            ..Bind::default()
        })),
        ..Mount::default()
    });
    let mut client = site.connect();
    client.create(plan).unwrap();
    client.call(Call::Start(Start {})).unwrap();
    for said in ["moved", "linked"] {
        eventually("it is changed", || site.log("0.log").contains(said));
        let (id, _out) = client.exec("true", 0);
        let failure = client.answer(id).unwrap_err();
        assert_eq!(
            (failure.kind(), failure.errno, &*failure.subject),
            (FailureKind::FailureExec, 2, "/work/here"),
            "{said}"
        );
        std::fs::write(volume.join("go"), "").unwrap();
    }
    let names = std::fs::read_dir(&volume).unwrap().flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["go"]);
    assert!(!site.dir.join("upper/work").is_dir());
    client.call(Call::Stop(Stop::default())).unwrap();
    client.exited();
    site.shim_ends();
}
