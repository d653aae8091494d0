//! hack/vm itself: what goes into a machine and comes out of it, and how it says that it could not. Reboots and power cuts
//! are in vm_reboot.rs.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    process::{Command, Output, Stdio},
};

use corten_test::{handler, node, vm};
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

/// A clone below /tmp, its cache, a program, a directory and a disk, with a space and a comma in each path.
#[test]
fn paths_may_be_any() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join("of mine, all").join(name);
    fs::create_dir_all(path("clone/hack")).unwrap();
    fs::create_dir(path("share")).unwrap();
    for name in ["cache.sh", "images", "machine", "packaging", "vm"] {
        let from = corten_test::repository().join("hack").join(name);
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(from).arg(path("clone/hack"));
        assert!(copy.status().unwrap().success());
    }
    symlink(handler::cache().unwrap(), path("cache")).unwrap();
    fs::copy("/bin/busybox", path("tool")).unwrap();
    fs::write(path("share/a file"), "shared").unwrap();
    let mut disk = b"a disk".to_vec();
    disk.resize(1 << 20, 0);
    fs::write(path("disk"), disk).unwrap();

    let place = |name: &str, there: &str| format!("{}:{there}", path(name).display());
    let script = "\"$0\" cat '/corten/their share/a file'; head -c 6 /dev/vda";
    let done = Command::new(path("clone/hack/vm"))
        .env("CORTEN_CACHE", path("cache"))
        .env(
            "CORTEN_BIN_DIR",
            node::binary("corten").unwrap().parent().unwrap(),
        )
        .arg("--disk")
        .arg(path("disk"))
        .args(["--with", &place("tool", "/corten/busybox")])
        .args(["--share", &place("share", "/corten/their share")])
        .args(["--", "sh", "-c", script, "/corten/busybox"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, error) = (text(&done.stdout), text(&done.stderr));
    assert!(done.status.success(), "{out}{error}");
    assert_eq!(out, "shareda disk", "{error}");
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
        // systemd empties the one, and mounts something on the other.
        (
            &["--system", "--with", "/tmp/clone/tool", "--", "true"],
            "the machine has its own /tmp",
        ),
        (
            &["--share", "/bin:/run/bin", "--", "true"],
            "the machine has its own /run",
        ),
        (&["--nothing"], "Usage: hack/vm"),
        (&["--system"], "Usage: hack/vm"),
    ] {
        let done = run(arguments);
        let error = text(&done.stderr);
        assert!(!done.status.success() && error.contains(words), "{error}");
    }
}
