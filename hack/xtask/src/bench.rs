//! `cargo xtask bench`: builds both sides and hands over to the bench in `test/bench`.

use std::{
    convert::Infallible,
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use clap::Args;

/// What the bench gets; xtask itself has no options here.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// --check, --pods N, --short; --help shows all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    bench: Vec<OsString>,
}

/// Why the bench did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("start {program}")]
    Start { program: String, source: io::Error },
    #[error("{program}: {status}")]
    Failed { program: String, status: ExitStatus },
    #[error("no folder for what hack/setup builds: set CORTEN_CACHE or HOME")]
    NoCache,
}

/// Builds, then becomes the bench, so that signals and the exit code are the bench's own.
pub(crate) fn run(root: &Path, options: &Options) -> Result<Infallible, Error> {
    let target = root.join("target");
    finish(
        Command::new("make")
            .arg("--silent")
            .arg("build")
            .current_dir(root),
    )?;
    finish(Command::new(root.join("hack/setup")).arg("bench"))?;
    finish(
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

fn finish(command: &mut Command) -> Result<(), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    // Build scripts that look at the package cargo runs would run again for this one's sake.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Failed { program, status }),
        Err(source) => Err(Error::Start { program, source }),
    }
}
