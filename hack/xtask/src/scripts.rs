//! Tests of the scripts in hack/, in a clone whose path has a space, with programs of the test's own for those that take long.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// What `cargo test` prints of a program.
const RAN: &str = "     Running tests/a.rs (target/debug/deps/a-1)\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 7.50s";
const IDLE: &str = "     Running tests/b.rs (target/debug/deps/b-2)\ntest result: ok. 0 passed; 0 failed; 0 ignored;";
/// A crate without tests of its own is none that was to run any.
const UNIT: &str = "     Running unittests src/main.rs (target/debug/deps/c-3)\ntest result: ok. 0 passed; 0 failed;";
/// In the place of cargo: what its tests print, and what the probe does.
const CARGO: &str = r#"case $1 in
test)
    case " $* " in
        *' --no-run '*) printf '%s\n' "$FAKE_BUILT" ;;
        *) printf '%s\n' "$FAKE_TESTS" ;;
    esac ;;
xtask) printf '%s\n' "$FAKE_PROBE" ;;
esac"#;

/// A clone in "my clone", and a folder of programs before all others.
struct Clone {
    _dir: TempDir,
    path: PathBuf,
    programs: PathBuf,
}

impl Clone {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my clone");
        let programs = dir.path().join("its programs");
        fs::create_dir(&programs).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let scripts = fs::read_dir(root.join("hack")).unwrap();
        let scripts = scripts.map(|entry| entry.unwrap().path());
        // Programs, and what cargo makes of them.
        let scripts = scripts.filter(|path| !path.ends_with("xtask") && !path.ends_with("inflate"));
        for (from, to) in [
            ("Makefile", ""),
            ("test/crictl.sh", "test"),
            ("fuzz/Cargo.toml", "fuzz"),
        ] {
            fs::create_dir_all(path.join(to)).unwrap();
            copy([root.join(from)], &path.join(to));
        }
        fs::create_dir(path.join("hack")).unwrap();
        copy(scripts, &path.join("hack"));
        let clone = Self {
            _dir: dir,
            path,
            programs,
        };
        clone.replace_program("cargo", CARGO);
        clone.replace_program("make", "");
        // Those that need root.
        clone.replace_program("unshare", "shift 2; exec \"$@\"");
        clone.replace_program("mount", "");
        clone
    }

    fn replace_program(&self, name: &str, script: &str) {
        write_script(&self.programs.join(name), script);
    }

    fn replace(&self, name: &str, script: &str) {
        write_script(&self.path.join("hack").join(name), script);
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(self.path.join(script));
        let path = std::env::var("PATH").unwrap();
        command
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .env("CORTEN_CACHE", self.path.join("the cache"))
            .env("FAKE_TESTS", format!("{UNIT}\n{RAN}"))
            .env("FAKE_PROBE", "probe: 60 passed, 0 failed, 0 skipped");
        command
    }

    /// All of `hack/test`, with nothing that takes long.
    fn test(&self) -> Command {
        for name in ["setup", "lint", "node", "vm-test", "fuzz", "critest"] {
            self.replace(name, "echo \"$0 ran\"");
        }
        self.command("hack/test")
    }
}

fn copy(files: impl IntoIterator<Item = PathBuf>, to: &Path) {
    let copied = Command::new("cp").arg("-a").args(files).arg(to).status();
    assert!(copied.unwrap().success());
}

fn write_script(path: &Path, script: &str) {
    // Not over the file: it may be a link, or be run.
    let _ = fs::remove_file(path);
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn run(command: &mut Command) -> (bool, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    (status.success(), text.into_owned())
}

#[test]
fn make_test_passes_where_all_steps_ran_tests() {
    let (good, text) = run(&mut Clone::new().test());
    assert!(good, "{text}");
    for line in [
        "build of tests",
        "cargo test",
        "test/crictl.sh",
        "probe",
        "critest",
        "websockets",
        "machines",
        "fuzz",
    ] {
        let passed = |text: &str| text.starts_with(line) && text.contains(" passed in ");
        assert!(text.lines().any(passed), "{line}: {text}");
    }
    assert!(text.contains("cargo-test: 3 passed, 0 failed"), "{text}");
    assert!(text.contains("    7.5 s  tests/a.rs\n"), "{text}");
}

#[test]
fn a_step_that_runs_no_test_fails() {
    let clone = Clone::new();
    for (step, variable, value) in [
        ("cargo test", "FAKE_TESTS", ""),
        ("cargo test", "FAKE_TESTS", UNIT),
        ("machines", "FAKE_TESTS", UNIT),
        ("cargo test", "FAKE_TESTS", &format!("{RAN}\n{IDLE}")),
        ("probe", "FAKE_PROBE", ""),
        (
            "probe",
            "FAKE_PROBE",
            "probe: 0 passed, 0 failed, 60 skipped",
        ),
    ] {
        let (good, text) = run(clone.test().env(variable, value));
        let failed = |text: &str| text.starts_with(step) && text.contains(" FAILED in ");
        assert!(
            !good && text.lines().any(failed),
            "{step} {value:?}: {text}"
        );
    }
    // A script that lost its mode is not passed over.
    let script = clone.path.join("test/crictl.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap();
    let mut test = clone.test();
    clone.replace("node", "exec \"$@\"");
    let (good, text) = run(&mut test);
    assert!(!good && text.contains("Permission denied"), "{text}");
}

#[test]
fn a_machine_that_ran_no_test_fails_and_its_programs_are_where_it_shows_them() {
    let clone = Clone::new();
    clone.replace(
        "vm",
        "printf '%s\\n' \"$@\"\nprintf '%s\\n' \"$FAKE_OUTPUT\"",
    );
    let built = |name: &str| {
        format!(
            r#"{{"reason": "compiler-artifact", "target": {{"kind": ["test"], "name": "{name}"}}, "executable": "/tmp/my clone/{name}-1"}}"#
        )
    };
    let both = format!("{}\n{}", built("b"), built("a"));
    let result = |counts: &[u32]| -> String {
        let line = |count| format!("test result: ok. {count} passed; 0 failed;\n");
        counts.iter().map(line).collect()
    };
    for (counts, arguments, want) in [
        (&[2, 1][..], &["a", "b"][..], true),
        (&[2], &["a", "b"], false),
        (&[2, 0], &["a", "b"], false),
        (&[2, 0], &["a", "b", "--", "one"], true),
        (&[0, 0], &["a", "b", "--", "one"], false),
        (&[], &["a", "b"], false),
    ] {
        let mut command = clone.command("hack/vm-test");
        command
            .env("FAKE_BUILT", &both)
            .env("FAKE_OUTPUT", result(counts));
        let (good, text) = run(command.arg("--").args(arguments));
        assert_eq!(good, want, "{counts:?} {arguments:?}: {text}");
        assert!(
            text.contains("\n/tmp/my clone/a-1:/corten/tests/a\n"),
            "{text}"
        );
        assert!(
            text.contains("\n/tmp/my clone/b-1:/corten/tests/b\n"),
            "{text}"
        );
        let hidden = format!(":{}", clone.path.display());
        assert!(!text.contains(&hidden), "{text}");
    }
}

#[test]
fn what_cannot_be_run_is_no_success() {
    let clone = Clone::new();
    let mut fuzz = clone.command("hack/fuzz");
    let (good, text) = run(fuzz.env(
        "PATH",
        format!("{}:/usr/bin:/bin", clone.programs.display()),
    ));
    assert!(!good && text.contains("cargo-fuzz is missing"), "{text}");
}

#[test]
fn the_callers_shell_does_not_matter() {
    let clone = Clone::new();
    let script = "cd '/' && umask 077 && cd - >/dev/null && . \"$0\" && umask && echo \"$LC_ALL $TMPDIR\" \
        && echo \"${CARGO_TARGET_DIR-none}${CDPATH-none}\" && (images_dir; echo \"$repo\")";
    let mut bash = Command::new("bash");
    bash.args(["-ec", script])
        .arg(clone.path.join("hack/cache.sh"));
    let (good, text) = run(bash
        .env("LC_ALL", "de_DE.UTF-8")
        .env("TMPDIR", "/tmp/a temporary place")
        .env("CARGO_TARGET_DIR", "/elsewhere")
        .env("CDPATH", "/")
        .env("CORTEN_CACHE", "/a cache"));
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.contains("setlocale"))
        .collect();
    let (first, last) = (lines[..4].to_vec(), lines[4]);
    assert!(good, "{text}");
    assert_eq!(first[..3], ["0022", "C.UTF-8 /tmp", "nonenone"], "{text}");
    assert!(first[3].starts_with("/a cache/images-"), "{text}");
    assert_eq!(Path::new(last), clone.path, "{text}");
}

#[test]
fn every_script_finds_its_parts_in_a_path_with_a_space() {
    let clone = Clone::new();
    for name in ["setup", "node", "vm", "vm-test", "critest", "fuzz"] {
        let (good, text) = run(clone.command(&format!("hack/{name}")).arg("--help"));
        assert!(
            good && text.contains(&format!("hack/{name} ")),
            "{name}: {text}"
        );
        assert!(!text.contains("No such file"), "{name}: {text}");
    }
    let mut make = Command::new("make");
    make.arg("-n").arg("-C").arg(&clone.path);
    for target in ["build", "demo", "test", "lint", "bench", "setup"] {
        make.arg(target);
    }
    let (good, text) = run(&mut make);
    assert!(
        good && !text.contains("my clone/"),
        "a path of the clone is not quoted: {text}"
    );
}
