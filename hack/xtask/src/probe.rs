//! `cargo xtask probe`: runs the probe's rows on Corten and on containerd, each on a node of its own, and compares.

use std::{
    convert::Infallible,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;

use crate::step::{self, Error};

/// Exit code of `corten-compare kind` on another kind of machine than that of the recording.
const ANOTHER_KIND: i32 = 3;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Compares with what containerd did when it was recorded, as CI does; on another kind of machine containerd is run
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
    let compare = || {
        let mut compare = Command::new(comparison(root));
        compare.arg("compare").arg(output.join("corten.tsv"));
        compare
    };
    rows("corten")?;
    if options.recorded && is_of_the_recordings_kind(root, &output.join("corten.tsv"))? {
        return Err(start_error(root, compare().exec()));
    }
    step::finish(Command::new(root.join("hack/setup")).arg("bench"))?;
    let containerd = rows("containerd")?;
    if options.record {
        step::finish(
            Command::new(comparison(root))
                .arg("record")
                .arg(&containerd),
        )?;
    }
    Err(start_error(root, compare().arg(containerd).exec()))
}

fn start_error(root: &Path, source: io::Error) -> Error {
    Error::Start {
        program: comparison(root).display().to_string(),
        source,
    }
}

/// Whether reports were made on a machine like that of the recording.
fn is_of_the_recordings_kind(root: &Path, reports: &Path) -> Result<bool, Error> {
    let asked = Command::new(comparison(root))
        .arg("kind")
        .arg(reports)
        .status();
    let status = asked.map_err(|source| start_error(root, source))?;
    match status.code() {
        Some(0) => Ok(true),
        Some(ANOTHER_KIND) => Ok(false),
        _ => Err(Error::Failed {
            program: comparison(root).display().to_string(),
            status,
        }),
    }
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
