//! `cargo xtask bench`: builds both sides and hands over to the bench in `test/bench`.

use std::{
    convert::Infallible,
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Args;

use crate::step::{self, Error};

/// What the bench gets; xtask itself has no options here.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// --check, --pods N, --short; --help shows all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    bench: Vec<OsString>,
}

/// Builds, then becomes the bench, so that signals and the exit code are the bench's own.
pub(crate) fn run(root: &Path, options: &Options) -> Result<Infallible, Error> {
    let target = root.join("target");
    step::build(root)?;
    step::finish(Command::new(root.join("hack/setup")).arg("bench"))?;
    step::finish(
        Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--release",
                "--package",
                "corten-test",
                "--bin",
                "corten-bench",
            ])
            .current_dir(root),
    )?;
    let mut bench = Command::new(target.join("release/corten-bench"));
    if options
        .bench
        .iter()
        .any(|word| word.to_string_lossy().contains("pull"))
    {
        bench.arg("--pull-storage").arg(pull_storage(root)?);
    }
    let error = bench
        .arg("--corten-dir")
        .arg(target.join("release"))
        .arg("--containerd-dir")
        .arg(cache()?.join("bin"))
        .arg("--streams-client")
        .arg(cache()?.join("bin/corten-streams"))
        .arg("--root")
        .arg(target.join("bench"))
        .arg("--output")
        .arg(target.join("bench.md"))
        .args(&options.bench)
        .exec();
    Err(Error::Start {
        program: "corten-bench".to_owned(),
        source: error,
    })
}

/// Made at the first time.
fn pull_storage(root: &Path) -> Result<PathBuf, Error> {
    let program = root.join("hack/bench-image");
    let name = || program.display().to_string();
    let output = Command::new(&program).stderr(Stdio::inherit()).output();
    let output = output.map_err(|source| Error::Start {
        program: name(),
        source,
    })?;
    let status = output.status;
    if !status.success() {
        return Err(Error::Failed {
            program: name(),
            status,
        });
    }
    let path = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(path.trim_end()))
}

/// Where `hack/setup` keeps what it has built.
fn cache() -> Result<PathBuf, Error> {
    if let Some(cache) = std::env::var_os("CORTEN_CACHE") {
        return Ok(cache.into());
    }
    let home = std::env::home_dir().ok_or(Error::NoCache)?;
    Ok(home.join(".cache/corten"))
}
