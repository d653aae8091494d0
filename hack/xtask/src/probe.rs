//! `cargo xtask probe`: runs the probe's rows on Corten and on containerd, each on a node of its own, and compares.

use std::{
    convert::Infallible,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;

use crate::step::{self, Error};

/// Where containerd's reports are kept, for machines like the one that they were taken on.
const RECORDING: &str = "test/probe/containerd.tsv";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Compares with what containerd did when it was recorded, as CI does; skipped on another kind of machine
    #[arg(long, conflicts_with = "record")]
    recorded: bool,
    /// Keeps what containerd does
    #[arg(long)]
    record: bool,
    /// Rows whose name begins so
    #[arg(long, conflicts_with_all = ["recorded", "record"])]
    only: Option<String>,
}

/// Runs the rows, then becomes the comparison, so that the exit code is its own.
pub(crate) fn run(root: &Path, options: &Options) -> Result<Infallible, Error> {
    let output = root.join("target/probe");
    step::finish(Command::new("mkdir").arg("-p").arg(&output))?;
    build(root)?;
    let rows = |runtime: &str| -> Result<PathBuf, Error> {
        let reports = output.join(format!("{runtime}.tsv"));
        let mut node = Command::new(root.join("hack/node"));
        node.args(["--runtime", runtime, "--"])
            .arg(comparison(root));
        node.args(["run", "--runtime", runtime, "--probe"])
            .arg(output.join("debug/corten-probe"));
        node.arg("--output").arg(&reports);
        if let Some(only) = &options.only {
            node.arg("--only").arg(only);
        }
        step::finish(&mut node)?;
        Ok(reports)
    };
    let corten = rows("corten")?;
    let recording = root.join(RECORDING);
    let containerd = if options.recorded {
        recording
    } else {
        step::finish(Command::new(root.join("hack/setup")).arg("bench"))?;
        let reports = rows("containerd")?;
        if options.record {
            step::finish(Command::new("cp").arg(&reports).arg(&recording))?;
        }
        reports
    };
    let program = comparison(root);
    let error = Command::new(&program)
        .arg("compare")
        .arg(corten)
        .arg(containerd)
        .exec();
    Err(Error::Start {
        program: program.display().to_string(),
        source: error,
    })
}

fn comparison(root: &Path) -> PathBuf {
    root.join("target/debug/corten-compare")
}

fn build(root: &Path) -> Result<(), Error> {
    step::build(root)?;
    let cargo = || {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root);
        cargo
    };
    let comparison = [
        "build",
        "--quiet",
        "--package",
        "corten-test",
        "--bin",
        "corten-compare",
    ];
    step::finish(cargo().args(comparison))?;
    // Static: it runs in a container with nothing else. The flags are the program's alone, and so is the folder.
    let probe = [
        "rustc",
        "--quiet",
        "--package",
        "corten-probe",
        "--target-dir",
        "target/probe",
    ];
    let flags = [
        "--",
        "-C",
        "target-feature=+crt-static",
        "-C",
        "strip=symbols",
    ];
    step::finish(cargo().args(probe).args(flags))
}
