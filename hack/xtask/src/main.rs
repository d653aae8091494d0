//! `cargo xtask`: the project's own tasks. The tree's rules are this crate's tests.
#![forbid(unsafe_code)]

mod bench;
mod churn;
mod probe;
#[cfg(test)]
mod scripts;
mod step;
#[cfg(test)]
mod tidy;
mod vm;

use std::{io::Write, path::Path, process::ExitCode};

use clap::Parser;

/// The project's own tasks
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Measures Corten against containerd with runc
    #[command(disable_help_flag = true)]
    Bench(bench::Options),
    /// Makes, races and removes pods at random while the daemon is killed; nothing may be left or go wrong
    #[command(disable_help_flag = true)]
    Churn(churn::Options),
    /// Compares what containers see and may do with what the same ones do under containerd with runc
    Probe(probe::Options),
    /// Runs a command in a virtual machine, with the workspace's build
    #[command(disable_help_flag = true)]
    Vm(vm::Options),
}

fn main() -> ExitCode {
    // Always set, and right, for what cargo has just built and runs.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."));
    let result = match Task::parse() {
        Task::Bench(options) => bench::run(root, &options),
        Task::Churn(options) => churn::run(root, &options),
        Task::Probe(options) => probe::run(root, &options),
        Task::Vm(options) => vm::run(root, &options),
    };
    match result {
        Ok(never) => match never {},
        Err(error) => {
            // Nobody reads: the exit code remains.
            let _ = writeln!(std::io::stderr(), "xtask: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and what caused it, from the outside in.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
