//! Tests in a virtual machine that may be started again: the test program starts it and in it itself, for the same test.
//! For a program's tests in one machine there is [`crate::machine`].
//!
//! ```text
//!   cargo test -> vm::run(TEST, boots) -> hack/vm --system ... test program --exact TEST
//!                                           `-> vm::boot() is Some(n): what is to be tested
//! ```

use std::{env, ffi::OsString, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use corten_proto::cri::VersionRequest;

use crate::{image, node, pod::Runtime, wait::until};

/// Which boot of the test's machine this is, in it.
const BOOT: &str = "CORTEN_VM_BOOT";
/// A line that cuts the machine's power.
const CUT: &str = "the power is cut";
/// Where the packaged unit's daemon serves.
const SOCKET: &str = "/run/corten/corten.sock";
/// The packaged unit's daemon has a network, and no other configuration.
const CONFIG: &str = "[cni]\ndev_network = true\n";
/// Seconds for one boot.
const LIMIT: &str = "300";

/// The number of the machine's boot, from 1 on; `None` outside of it.
#[must_use]
pub fn boot() -> Option<u32> {
    env::var(BOOT).ok()?.parse().ok()
}

/// Runs the test of this name in a machine that is started so many times, with these options of `hack/vm`, and shows what
/// it prints.
///
/// # Errors
/// The output of the boot in which the test did not succeed.
pub fn run(test: &str, boots: u32, options: &[&str]) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("config");
    fs::create_dir(&config)?;
    fs::write(config.join("config.toml"), CONFIG)?;
    let images = dir.path().join("images");
    fs::create_dir(&images)?;
    fs::rename(
        image::busybox_archive(dir.path())?,
        images.join("busybox.tar"),
    )?;
    for boot in 1..=boots {
        let mut machine = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/vm"));
        machine.args(["--system", "--limit", LIMIT, "--cut", CUT]);
        machine.args(options);
        if boots > 1 {
            machine.arg("--keep").arg(dir.path().join("root"));
        }
        let program = env::current_exe()?;
        machine.arg("--with").arg(&program);
        machine.arg("--share").arg(shared(&config, "/etc/corten"));
        machine.arg("--share").arg(shared(&images, "/share"));
        machine.args(["--", "env", &format!("{BOOT}={boot}"), "TEST_PATIENCE=5"]);
        machine.arg(&program).args(["--exact", test, "--nocapture"]);
        let output = machine.output().context("run hack/vm")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        let ran = text.contains("1 passed") || text.contains(CUT);
        ensure!(
            output.status.success() && ran,
            "boot {boot}: {}\n{text}{error}",
            output.status
        );
    }
    Ok(())
}

fn shared(dir: &Path, place: &str) -> OsString {
    let mut argument = dir.to_owned().into_os_string();
    argument.push(":");
    argument.push(place);
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

/// Starts the packaged unit's daemon, in the machine.
pub async fn start_corten() -> Result<Runtime> {
    shell("systemctl start corten")?;
    runtime().await
}

/// The daemon, as soon as it answers.
pub async fn runtime() -> Result<Runtime> {
    until(|| async {
        let mut runtime = node::runtime_at(SOCKET.into()).await?;
        runtime.version(VersionRequest::default()).await?;
        anyhow::Ok(runtime)
    })
    .await
}

/// Starts the daemon with the busybox image.
pub async fn start_with_image() -> Result<Runtime> {
    let runtime = start_corten().await?;
    shell("corten image load /share/busybox.tar")?;
    Ok(runtime)
}

/// The standard output of a shell script, in the machine.
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
