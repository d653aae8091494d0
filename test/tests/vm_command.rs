//! hack/vm itself: what goes into a machine and comes out of it, and how it says that it could not. Reboots and power cuts
//! are in vm_reboot.rs.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Output, Stdio},
};

use corten_test::vm;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn run(arguments: &[&str]) -> Output {
    vm::command().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn output_and_exit_code_are_the_commands_own() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "shared").unwrap();
    let share = format!("{}:/some/place", dir.path().display());
    let words = "'a  b' $HOME \"c\"\n\\d";
    let script = "printf '%s\n' \"$1\"; cat /some/place/file; exit 7";
    let done = run(&["--share", &share, "--", "sh", "-c", script, "sh", words]);
    let (out, error) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(done.status.code(), Some(7), "{out}{error}");
    assert_eq!(out, format!("{words}\nshared"), "{error}");
}

#[test]
fn a_machine_that_takes_too_long_is_ended() {
    let done = run(&["--limit", "1", "--", "sleep", "100000"]);
    assert_eq!(done.status.code(), Some(1));
    let error = text(&done.stderr);
    assert!(error.contains("was ended after 1 s"), "{error}");
}

#[test]
fn a_machine_ends_with_the_command_that_made_it() {
    let mut command = vm::command();
    command.args(["--", "sh", "-c", "echo up; sleep 100000"]);
    let mut machine = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(machine.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    let id = i32::try_from(machine.id()).unwrap();
    kill(Pid::from_raw(id), Signal::SIGTERM).unwrap();
    assert_eq!(machine.wait().unwrap().code(), Some(143));
    // All that wrote there has gone.
    assert!(lines.next().is_none());
}

#[test]
fn a_machine_with_too_little_memory_for_its_files_says_so() {
    let dir = tempfile::tempdir().unwrap();
    // As large as its memory; half of that is what its root may take.
    fs::write(dir.path().join("file"), vec![b'x'; 160 << 20]).unwrap();
    let share = dir.path().display().to_string();
    let done = run(&["--memory", "512", "--share", &share, "--", "echo", "ran"]);
    let (out, error) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(done.status.code(), Some(1), "{out}{error}");
    assert!(out.contains("more --memory"), "{out}{error}");
    assert!(!out.contains("ran\n"), "{out}");
}

#[test]
fn what_cannot_be_is_refused_before_a_machine_starts() {
    for (arguments, words) in [
        (
            &["--kernel", "2.4", "--", "true"][..],
            "give 6.1 or backports",
        ),
        (
            &["--system", "--lsm", "smack", "--", "true"],
            "give apparmor, selinux or none",
        ),
        (&["--keep", "/tmp/disk", "--", "true"], "are for a --system"),
        (&["--nothing"], "Usage: hack/vm"),
        (&["--system"], "Usage: hack/vm"),
    ] {
        let done = run(arguments);
        let error = text(&done.stderr);
        assert!(!done.status.success() && error.contains(words), "{error}");
    }
}
