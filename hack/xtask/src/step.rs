//! Programs that a task runs before it becomes another program.

use std::{
    io,
    path::Path,
    process::{Command, ExitStatus},
};

/// Why a task did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("start {program}")]
    Start { program: String, source: io::Error },
    #[error("{program}: {status}")]
    Failed { program: String, status: ExitStatus },
    #[error("no folder for what hack/setup builds: set CORTEN_CACHE or HOME")]
    NoCache,
}

/// The release build that all tasks use.
pub(crate) fn build(root: &Path) -> Result<(), Error> {
    finish(
        Command::new("make")
            .arg("--silent")
            .arg("build")
            .current_dir(root),
    )
}

/// Runs it to its end, which must be a good one.
pub(crate) fn finish(command: &mut Command) -> Result<(), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    // Build scripts that look at the package cargo runs would run again for this one's sake. The folder is target/.
    for (name, _) in std::env::vars_os() {
        if [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET_DIR",
        ]
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
