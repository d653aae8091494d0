//! Tests that need another machine: the test program starts one by `hack/vm`, and runs in it once more. `hack/vm-test` does
//! the same with a program that does not do it by itself.
//!
//! ```text
//!   here:   run(options)           --hack/vm--> the same program, all of it; what checks is_here() is passed over here
//!           run_boots(test, n, ..) --hack/vm--> one test of it, n times on the same disk
//!   there:  run() is passed over, is_here() is true, boot() tells which time it is
//! ```

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use corten_proto::cri::VersionRequest;

use crate::{handler, image, node, pod::Runtime, wait::until};

/// Which boot of the test's machine this is, in it.
const BOOT: &str = "CORTEN_VM_BOOT";
/// A line that cuts the machine's power.
const CUT: &str = "the power is cut";
/// Seconds for one boot; most are for a host that does much else.
const LIMIT: &str = "900";
/// What tests in the machine need besides Debian's own programs.
const BUSYBOX: &str = "/bin/busybox";
/// Where the test program and its tools are in the machine: wherever they are here, systemd may hide that place there.
const PROGRAM: &str = "/corten/test-program";
const CACHE: &str = "/corten/cache";
/// Where the packaged unit's daemon serves, and its configuration.
const SOCKET: &str = "/run/corten/corten.sock";
const CONFIG: &str = "/etc/corten/config.toml";
/// With a network, the configuration is otherwise empty.
pub const NETWORK: &str = "[cni]\ndev_network = true\n";

/// The number of the machine's boot, from 1 on; `None` outside of it.
#[must_use]
pub fn boot() -> Option<u32> {
    env::var(BOOT).ok()?.parse().ok()
}

/// Whether this is the machine; a test that needs it says so otherwise.
#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
pub fn is_here() -> bool {
    let here = boot().is_some();
    if !here {
        eprintln!("not run here: it runs in the virtual machine");
    }
    here
}

/// Whether this is no machine; a test that starts one says so otherwise.
#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
pub fn is_outside() -> bool {
    let outside = boot().is_none();
    if !outside {
        eprintln!("not run here: it starts a virtual machine");
    }
    outside
}

/// `hack/vm`, to be given options and a command.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new(crate::repository().join("hack/vm"));
    command.stdin(Stdio::null());
    command
}

/// Runs the calling test program, one test after the other, in a Debian machine with systemd that `hack/vm` makes with these
/// options. Does nothing there.
///
/// # Errors
/// A machine that does not start, and a test that fails there, with what was printed.
pub fn run(options: &[&str]) -> Result<()> {
    if boot().is_some() {
        return Ok(());
    }
    run_boot(1, options.iter().map(OsStr::new), &["--test-threads=1"])
}

/// Runs the test of this name in a machine with systemd that is started so many times, each time with what was on its disk
/// when the last ended by itself or by [`cut_power`].
///
/// # Errors
/// The output of the boot in which the test did not succeed.
pub fn run_boots(test: &str, boots: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = dir.path().join("root");
    for boot in 1..=boots {
        let options = [OsStr::new("--cut"), OsStr::new(CUT), OsStr::new("--keep")];
        let options = options.into_iter().chain([disk.as_os_str()]);
        run_boot(boot, options, &["--exact", test, "--nocapture"])?;
    }
    Ok(())
}

fn run_boot<'a>(
    boot: u32,
    options: impl Iterator<Item = &'a OsStr>,
    arguments: &[&str],
) -> Result<()> {
    let program = env::current_exe().context("find the test program")?;
    let output = command()
        .args(["--system", "--limit", LIMIT])
        .args(options)
        .args(["--with", BUSYBOX, "--with"])
        .arg(placed(&handler::runc()?, &format!("{CACHE}/bin/runc")))
        .arg("--with")
        .arg(placed(&program, PROGRAM))
        .args(["--", "env", "CORTEN_BIN_DIR=/usr/local/bin"])
        .arg(format!("CORTEN_CACHE={CACHE}"))
        // Under emulation everything takes about ten times as long.
        .args(["TEST_PATIENCE=10", &format!("{BOOT}={boot}")])
        .arg(PROGRAM)
        .args(arguments)
        .output()
        .context("run hack/vm")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "boot {boot}: {}\n{text}{error}",
        output.status
    );
    let ran = text.contains("test result: ok.") && !text.contains(" 0 passed");
    ensure!(
        ran || text.contains(CUT),
        "boot {boot}: no test ran\n{text}{error}"
    );
    Ok(())
}

/// FILE:PATH, an argument of `hack/vm`.
fn placed(file: &Path, path: &str) -> OsString {
    let mut argument = file.as_os_str().to_owned();
    argument.push(":");
    argument.push(path);
    argument
}

/// Cuts the machine's power, from within. Nothing that is not on the disk stays.
#[expect(clippy::print_stdout, reason = "hack/vm waits for the line")]
pub fn cut_power() -> ! {
    println!("\n{CUT}");
    loop {
        std::thread::park();
    }
}

/// Starts the packaged unit's daemon with this configuration, in the machine.
///
/// # Errors
/// systemd's.
pub async fn start_corten(config: &str) -> Result<Runtime> {
    fs::create_dir_all(Path::new(CONFIG).parent().context("no parent")?)?;
    fs::write(CONFIG, config)?;
    shell("systemctl start corten")?;
    runtime().await
}

/// The daemon, as soon as it answers.
///
/// # Errors
/// The last answer.
pub async fn runtime() -> Result<Runtime> {
    until(|| async {
        let mut runtime = node::runtime_at(SOCKET.into()).await?;
        runtime.version(VersionRequest::default()).await?;
        anyhow::Ok(runtime)
    })
    .await
}

/// Adds the busybox image to the packaged unit's daemon.
///
/// # Errors
/// Those of `corten image load`.
pub fn load_busybox() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = image::busybox_archive(dir.path())?;
    shell(&format!("corten image load {}", archive.display()))?;
    Ok(())
}

/// The standard output of a shell script, in the machine.
///
/// # Errors
/// What it wrote to standard error.
pub fn shell(script: &str) -> Result<String> {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{script}: {}: {error}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}
