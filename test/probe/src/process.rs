//! Who the process is, what it may do, its limits and its surroundings.

use std::{env, fs};

use nix::{sys::resource, unistd};
use rustix::{process, thread};

use crate::report::{Report, failure};

/// Of /proc/self/status (proc_pid_status(5)); the rest changes from run to run.
const STATUS: [&str; 23] = [
    "Name",
    "Umask",
    "TracerPid",
    "Uid",
    "Gid",
    "Groups",
    "NSpid",
    "NSpgid",
    "NSsid",
    "SigBlk",
    "SigIgn",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Speculation_Store_Bypass",
    "SpeculationIndirectBranch",
    "Cpus_allowed_list",
    "Mems_allowed_list",
];
/// The kernel's security modules, each with a file of its own where it is built in.
const ATTRIBUTES: [&str; 8] = [
    "current",
    "exec",
    "fscreate",
    "keycreate",
    "prev",
    "sockcreate",
    "apparmor/current",
    "smack/current",
];
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
const LIMITS: [(resource::Resource, &str); 16] = {
    use resource::Resource::*;
    [
        (RLIMIT_AS, "as"),
        (RLIMIT_CORE, "core"),
        (RLIMIT_CPU, "cpu"),
        (RLIMIT_DATA, "data"),
        (RLIMIT_FSIZE, "fsize"),
        (RLIMIT_LOCKS, "locks"),
        (RLIMIT_MEMLOCK, "memlock"),
        (RLIMIT_MSGQUEUE, "msgqueue"),
        (RLIMIT_NICE, "nice"),
        (RLIMIT_NOFILE, "nofile"),
        (RLIMIT_NPROC, "nproc"),
        (RLIMIT_RSS, "rss"),
        (RLIMIT_RTPRIO, "rtprio"),
        (RLIMIT_RTTIME, "rttime"),
        (RLIMIT_SIGPENDING, "sigpending"),
        (RLIMIT_STACK, "stack"),
    ]
};

pub(crate) fn all(report: &mut Report) {
    status(report);
    identity(report);
    limits(report);
    for name in NAMESPACES {
        let link = fs::read_link(format!("/proc/self/ns/{name}"));
        let value = link.map_or_else(|error| failure(&error), |link| link.display().to_string());
        report.add(format!("namespace.{name}"), value);
    }
    for name in ATTRIBUTES {
        file(
            report,
            &format!("attr.{name}"),
            &format!("/proc/self/attr/{name}"),
        );
    }
    for (name, value) in env::vars_os() {
        report.add(
            format!("env.{}", name.to_string_lossy()),
            value.to_string_lossy(),
        );
    }
    let arguments: Vec<_> = env::args().skip(2).collect();
    report.add("arguments", arguments.join(" "));
    let uts = rustix::system::uname();
    report.add("uts.hostname", uts.nodename().to_string_lossy());
    report.add("uts.domainname", uts.domainname().to_string_lossy());
}

fn status(report: &mut Report) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, value) in status.lines().filter_map(|line| line.split_once(':')) {
        if STATUS.contains(&name) {
            let words: Vec<_> = value.split_whitespace().collect();
            report.add(format!("status.{name}"), words.join(" "));
        }
    }
    for name in [
        "oom_score_adj",
        "loginuid",
        "coredump_filter",
        "timerslack_ns",
        "personality",
    ] {
        file(
            report,
            &format!("proc.{name}"),
            &format!("/proc/self/{name}"),
        );
    }
    file(report, "proc.uid_map", "/proc/self/uid_map");
    file(report, "proc.gid_map", "/proc/self/gid_map");
    file(report, "proc.setgroups", "/proc/self/setgroups");
}

fn identity(report: &mut Report) {
    let leads = |id: Option<unistd::Pid>| id == Some(unistd::getpid());
    report.add("process.is-1", unistd::getpid().as_raw() == 1);
    report.add("process.parent-is-seen", unistd::getppid().as_raw() != 0);
    report.add("process.leads-session", leads(unistd::getsid(None).ok()));
    report.add("process.leads-group", leads(Some(unistd::getpgrp())));
    report.add("process.nice", process::nice(0).map_or(-1, |nice| nice));
    let dumpable = process::dumpable_behavior();
    report.add("process.dumpable", format!("{dumpable:?}"));
    let bits = thread::capabilities_secure_bits();
    report.add("process.securebits", format!("{bits:?}"));
    let death = process::parent_process_death_signal();
    report.add("process.death-signal", format!("{death:?}"));
    let directory = env::current_dir();
    let directory =
        directory.map_or_else(|error| failure(&error), |path| path.display().to_string());
    report.add("process.directory", directory);
    let terminal = fs::File::open("/dev/tty").map(drop);
    report.add("process.terminal", crate::report::outcome(terminal));
}

fn limits(report: &mut Report) {
    for (limit, name) in LIMITS {
        let value = match resource::getrlimit(limit) {
            Ok((soft, hard)) => format!("{} {}", number(soft), number(hard)),
            Err(errno) => format!("{errno:?}"),
        };
        report.add(format!("limit.{name}"), value);
    }
}

fn number(limit: u64) -> String {
    match limit {
        resource::RLIM_INFINITY => "infinity".to_owned(),
        limit => limit.to_string(),
    }
}

fn file(report: &mut Report, key: &str, path: &str) {
    let content = fs::read(path);
    let content = content.map_or_else(
        |error| failure(&error),
        |bytes| String::from_utf8_lossy(&bytes).trim().to_owned(),
    );
    report.add(key, content);
}
