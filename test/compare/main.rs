//! The probe's rows on the runtime of `hack/node`, and the comparison of what they saw: for `cargo xtask probe`.
//!
//! ```text
//!   rows, settings   test/probe/rows.tsv, as requests
//!   run              one container a row; its own report, and that of an exec
//!   mask             without what differs from container to container
//!   recording        reports in a file
//!   difference       what may differ, by test/probe/differences.tsv, and what does
//! ```
#![forbid(unsafe_code)]

mod difference;
mod mask;
mod recording;
mod rows;
mod run;
mod settings;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;

/// Runs the probe's rows, or compares what they saw
#[derive(Debug, Parser)]
enum Task {
    /// Runs all rows on the runtime that hack/node has started
    Run {
        /// The probe, linked statically
        #[arg(long)]
        probe: PathBuf,
        /// What runs there
        #[arg(long, value_enum)]
        runtime: run::Runtime,
        /// Rows whose name begins so
        #[arg(long)]
        only: Option<String>,
        /// Where the reports go
        #[arg(long)]
        output: PathBuf,
    },
    /// Says what differs, and exits with 1 when that is not in the list of differences
    Compare {
        corten: PathBuf,
        containerd: PathBuf,
    },
}

fn main() -> ExitCode {
    match perform(Task::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Nobody reads: the exit code remains.
            let _ = writeln!(std::io::stderr(), "corten-compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Run {
            probe,
            runtime,
            only,
            output,
        } => {
            let wanted =
                |row: &rows::Row| only.as_ref().is_none_or(|only| row.name.starts_with(only));
            let rows: Vec<_> = rows::read(&data("rows.tsv"))?
                .into_iter()
                .filter(wanted)
                .collect();
            ensure!(!rows.is_empty(), "no row has such a name");
            let node = run::Node::from_environment(&probe, runtime)?;
            let executor = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the async runtime")?;
            let reports = executor.block_on(node.run(&rows))?;
            let text = recording::write(&recording::facts()?, &reports);
            fs::write(&output, text).with_context(|| format!("write {}", output.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Compare { corten, containerd } => compare(&corten, &containerd),
    }
}

fn compare(corten: &Path, containerd: &Path) -> Result<ExitCode> {
    let (here, ours) = recording::read(corten)?;
    let (there, theirs) = recording::read(containerd)?;
    let mut output = std::io::stdout().lock();
    if here != there {
        writeln!(
            output,
            "another kind of machine: it has {here:?}, and the other side was run with {there:?}"
        )?;
        writeln!(output, "probe: 0 passed, 0 failed, {} skipped", ours.len())?;
        return Ok(ExitCode::SUCCESS);
    }
    let listed = difference::read(&data("differences.tsv"))?;
    let outcome = difference::judge(&ours, &theirs, &listed);
    output.write_all(outcome.text().as_bytes())?;
    Ok(if outcome.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("probe")
        .join(name)
}
