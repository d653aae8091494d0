//! The log: exact to the byte, complete at the end, and opened anew between lines.

use std::{fs, os::unix::fs::PermissionsExt};

use corten_proto::shim::{FailureKind, Log, ReopenLog, Start, request::Call};

use crate::site::{Site, eventually};

#[test]
fn the_log_is_exact() {
    let mut site = Site::new();
    let script = "printf 'one\\r\\n\\n'; printf '0123456789abcdef\\n'; echo 0123456789abcdefg; \
        printf half; printf err >&2; sleep 0.05; echo ' of it'; printf out; exit 3";
    let mut client = site.start(script);
    let exited = client.exited();
    let log = site.log("0.log");
    let of = |stream: &str| {
        let lines = log.split_inclusive('\n');
        lines
            .filter_map(|line| line.strip_prefix(stream))
            .collect::<String>()
    };
    assert_eq!(
        of("stdout "),
        "F one\r\nF \nF 0123456789abcdef\nP 0123456789abcdef\nF g\nF half of it\nP out\n"
    );
    assert_eq!(of("stderr "), "P err\n");
    assert_eq!((exited.code, exited.oom_killed), (3, false));
    assert_eq!(site.exit_file(), Some(exited));
    site.shim_ends();
    assert_eq!(site.notes(), "");
}

#[test]
fn all_output_is_in_the_log_when_the_end_is_told() {
    let site = Site::new();
    let script = "n=0; while [ $n -lt 20000 ]; do echo line $n; n=$((n+1)); done";
    site.start(script).exited();
    let log = site.log("0.log");
    let want: String = (0..20_000)
        .map(|n| format!("stdout F line {n}\n"))
        .collect();
    assert!(log == want, "{} lines", log.lines().count());
}

#[test]
fn a_reopened_log_loses_and_repeats_nothing() {
    let site = Site::new();
    let script = "n=0; while [ $n -lt 3000 ]; do echo line $n; n=$((n+1)); [ $((n%100)) = 0 ] && sleep 0.02; done";
    let mut client = site.start(script);
    let path = |name: &str| site.dir.join("logs").join(name);
    let mut names = Vec::new();
    for number in 1..=5 {
        eventually("something is written", || {
            fs::metadata(path("0.log")).unwrap().len() > 0 || site.exit_file().is_some()
        });
        let name = format!("0.log.{number}");
        fs::rename(path("0.log"), path(&name)).unwrap();
        let id = client.send(Call::ReopenLog(ReopenLog {}), &[]);
        match client.receive().unwrap() {
            reply if reply.id == id => assert!(path("0.log").exists()),
            // It was faster than this test.
            _ => break,
        }
        names.push(name);
    }
    while client.receive().is_some() {}
    assert!(!names.is_empty());
    names.push("0.log".into());
    let log: String = names.iter().map(|name| site.log(name)).collect();
    let want: String = (0..3000).map(|n| format!("stdout F line {n}\n")).collect();
    assert!(log == want, "{} lines", log.lines().count());
}

#[test]
fn a_log_that_cannot_be_reopened_goes_on() {
    let site = Site::new();
    let mut client = site.start("echo a; while [ ! -e /go ]; do sleep 0.02; done; echo b");
    eventually("the first line", || site.log("0.log") == "stdout F a\n");
    fs::rename(site.dir.join("logs"), site.dir.join("moved")).unwrap();
    fs::write(site.dir.join("logs"), "no directory").unwrap();
    let failure = client.call(Call::ReopenLog(ReopenLog {})).unwrap_err();
    assert_eq!(failure.subject, site.path("logs/0.log"));
    fs::remove_file(site.dir.join("logs")).unwrap();
    fs::rename(site.dir.join("moved"), site.dir.join("logs")).unwrap();
    assert_eq!(client.exec_to_end("echo > /go").0, 0);
    client.exited();
    assert!(site.log("0.log").ends_with("stdout F b\n"));
}

#[test]
fn without_a_path_output_is_dropped() {
    let site = Site::new();
    let mut plan = site.plan("dd if=/dev/zero bs=64k count=64; exit 4");
    plan.log = Some(Log::default());
    let mut client = site.connect();
    client.create(plan).unwrap();
    client.call(Call::Start(Start {})).unwrap();
    assert_eq!(client.exited().code, 4);
}

#[test]
fn a_missing_log_directory_is_made() {
    let site = Site::new();
    let mut plan = site.plan("echo hello");
    plan.log.as_mut().unwrap().path = site.path("logs/pod/name/0.log");
    let mut client = site.connect();
    client.create(plan).unwrap();
    client.call(Call::Start(Start {})).unwrap();
    client.exited();
    assert_eq!(site.log("pod/name/0.log"), "stdout F hello\n");
    let mode = |path: &str| {
        let found = fs::metadata(site.dir.join("logs").join(path)).unwrap();
        found.permissions().mode() & 0o777
    };
    assert_eq!((mode("pod/name"), mode("pod/name/0.log")), (0o755, 0o640));
}

#[test]
fn a_log_that_cannot_be_opened_is_told_at_create() {
    let mut site = Site::new();
    fs::write(site.dir.join("file"), "").unwrap();
    let mut plan = site.plan("true");
    plan.log.as_mut().unwrap().path = site.path("file/0.log");
    let mut client = site.connect();
    let failure = client.create(plan).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailureInvalid);
    assert_eq!(failure.subject, site.path("file/0.log"));
    drop(client);
    site.shim_ends();
}

#[test]
fn a_full_disk_drops_lines_and_blocks_nobody() {
    let mut site = Site::new();
    let mut client = site.connect();
    client
        .create(site.plan("dd if=/dev/zero bs=1M count=1 2>/dev/null; echo; echo end; exit 5"))
        .unwrap();
    // The shim's file size limit is a disk that is full at 64 KiB.
    let pid = rustix::process::Pid::from_raw(i32::try_from(site.shim.id()).unwrap());
    let limit = rustix::process::Rlimit {
        current: Some(64 << 10),
        maximum: Some(64 << 10),
    };
    rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit).unwrap();
    client.call(Call::Start(Start {})).unwrap();
    assert_eq!(client.exited().code, 5);
    site.shim_ends();
    let text = fs::read_to_string(site.dir.join("logs/0.log")).unwrap();
    assert!(
        text.ends_with('\n') && text.len() > 60_000,
        "{}",
        text.len()
    );
    assert!(
        site.notes()
            .contains("lines of the log could not be written")
    );
}
