//! `cargo xtask churn`: builds, and hands over to the churn in `test/churn`.

use std::{
    convert::Infallible, ffi::OsString, os::unix::process::CommandExt, path::Path, process::Command,
};

use clap::Args;

use crate::step::{self, Error};

/// What the churn gets; xtask itself has no options here.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// --minutes N, --seed N, --shim-kills N; --help shows all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    churn: Vec<OsString>,
}

/// Builds, then becomes the churn, so that signals and the exit code are the churn's own.
pub(crate) fn run(root: &Path, options: &Options) -> Result<Infallible, Error> {
    step::build(root)?;
    let build = [
        "build",
        "--quiet",
        "--release",
        "--package",
        "corten-test",
        "--bin",
        "corten-churn",
    ];
    step::finish(Command::new(env!("CARGO")).args(build).current_dir(root))?;
    let error = Command::new(root.join("target/release/corten-churn"))
        .arg("--output")
        .arg(root.join("target/churn"))
        .args(&options.churn)
        .exec();
    Err(Error::Start {
        program: "corten-churn".to_owned(),
        source: error,
    })
}
