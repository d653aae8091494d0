//! Tests that need another machine: a test binary runs in one of `hack/vm`, once more.
//!
//! ```text
//!   here:   run(options) --hack/vm--> the same binary;  everything else is passed over by is_here()
//!   there:                            run() is passed over, everything else runs
//! ```

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// What tests in the machine need besides Debian's own programs.
const BUSYBOX: &str = "/bin/busybox";
/// Seconds; most are for a host that does much else.
const LIMIT: &str = "900";
/// Set in the machine.
const HERE: &str = "CORTEN_TEST_MACHINE";

/// Whether this is the machine; a test that needs it says so otherwise.
#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
pub fn is_here() -> bool {
    let here = env::var_os(HERE).is_some();
    if !here {
        eprintln!("not run here: it runs in the virtual machine");
    }
    here
}

/// Runs the calling test binary, one test after the other, in a Debian machine with systemd that `hack/vm` makes with these
/// options. Does nothing there.
///
/// # Errors
/// A machine that does not start, and a test that fails there, with what was printed.
pub fn run(options: &[&str]) -> Result<()> {
    if env::var_os(HERE).is_some() {
        return Ok(());
    }
    let vm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/vm");
    let tests = env::current_exe().context("find the test binary")?;
    let output = Command::new(vm)
        .args(["--system", "--limit", LIMIT])
        .args(options)
        .arg("--with")
        .arg(&tests)
        .args(["--with", BUSYBOX])
        // Under emulation everything takes about ten times as long.
        .args([
            "--",
            "env",
            "CORTEN_BIN_DIR=/usr/local/bin",
            "TEST_PATIENCE=10",
        ])
        .arg(format!("{HERE}=1"))
        .arg(&tests)
        .arg("--test-threads=1")
        .stdin(Stdio::null())
        .output()
        .context("run hack/vm")?;
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{out}{err}", output.status);
    ensure!(out.contains("test result: ok."), "no test ran\n{out}{err}");
    Ok(())
}
