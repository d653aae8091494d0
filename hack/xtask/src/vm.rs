//! `cargo xtask vm`: builds, then hands over to `hack/vm`.

use std::{
    convert::Infallible, ffi::OsString, os::unix::process::CommandExt, path::Path, process::Command,
};

use clap::Args;

use crate::step::{self, Error};

/// What `hack/vm` gets; xtask itself has no options here.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Options and a command; --help shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Builds, then becomes `hack/vm`, so that signals and the exit code are the command's own.
pub(crate) fn run(root: &Path, options: &Options) -> Result<Infallible, Error> {
    step::build(root)?;
    step::finish(Command::new(root.join("hack/setup")).arg("vm"))?;
    let program = root.join("hack/vm");
    let error = Command::new(&program).args(&options.words).exec();
    Err(Error::Start {
        program: program.display().to_string(),
        source: error,
    })
}
