//! The probe's rows on the runtime of `hack/node`, and the comparison of what they saw: for `cargo xtask probe`.
//!
//! ```text
//!   rows, settings   test/probe/rows.tsv, as requests
//!   run              one container a row; its own report, and that of an exec
//!   mask             without what differs from container to container
//!   host             what a report has from its host
//!   recording        reports in a file
//!   difference       what may differ, by test/probe/differences.tsv, and what does
//! ```
#![forbid(unsafe_code)]

mod difference;
mod host;
mod mask;
mod recording;
mod rows;
mod run;
mod settings;

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use recording::Recording;

/// Where containerd's reports are kept, in test/probe.
const RECORDING: &str = "containerd.tsv";
/// Exit code where the machine is of another kind than that of the recording.
const ANOTHER_KIND: u8 = 3;

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
    /// Keeps reports of containerd, without what is this machine's own
    Record { reports: PathBuf },
    /// Exits with 3 when the reports are of another kind of machine than what was recorded
    Kind { reports: PathBuf },
    /// Says what differs, from what was recorded if containerd has not been run, and exits with 1 when that is not in the
    /// list of differences
    Compare {
        corten: PathBuf,
        containerd: Option<PathBuf>,
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
            let (host, reports) = executor.block_on(node.run(&rows))?;
            let facts = recording::facts()?;
            keep(
                &output,
                &Recording {
                    facts,
                    host,
                    reports,
                },
            )
        }
        Task::Record { reports } => keep(&data(RECORDING), &recording::read(&reports)?.to_keep()),
        Task::Kind { reports } => kind(&recording::read(&reports)?),
        Task::Compare { corten, containerd } => compare(&corten, containerd.as_deref()),
    }
}

fn keep(path: &Path, recording: &Recording) -> Result<ExitCode> {
    let text = recording::write(recording);
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn kind(ours: &Recording) -> Result<ExitCode> {
    let recorded = recording::read(&data(RECORDING))?;
    if ours.facts == recorded.facts {
        return Ok(ExitCode::SUCCESS);
    }
    let (here, there) = (&ours.facts, &recorded.facts);
    writeln!(
        std::io::stdout(),
        "another kind of machine: it has {here:?}, and the recording is of one with {there:?}"
    )?;
    Ok(ANOTHER_KIND.into())
}

fn compare(corten: &Path, containerd: Option<&Path>) -> Result<ExitCode> {
    let ours = recording::read(corten)?;
    let recorded = recording::read(&data(RECORDING))?;
    let another_kind = ours.facts != recorded.facts;
    let mut output = std::io::stdout().lock();
    let (theirs, left_out) = match containerd {
        Some(path) => (recording::read(path)?, BTreeSet::new()),
        None => {
            ensure!(!another_kind, "the recording is of another kind of machine");
            let left_out = ours.host.unlike(&recorded.host);
            (recorded.on(&ours.host), left_out)
        }
    };
    let listed = difference::read(&data("differences.tsv"))?;
    let outcome = difference::judge(&ours.reports, &theirs.reports, &listed, left_out)
        .of_another_kind(another_kind);
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
