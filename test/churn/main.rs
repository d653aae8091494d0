//! Random lives of pods under kills, for as long as one likes: `cargo xtask churn`.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use corten_test::churn;

/// Clients make, use, race and remove pods at random while the daemon is killed; nothing may be left or go wrong
#[derive(Debug, Parser)]
#[command(name = "cargo xtask churn")]
struct Options {
    /// How long
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Repeats the decisions of an earlier run; random, and printed, without
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 6)]
    clients: u64,
    /// Kills of the daemon in a minute
    #[arg(long, default_value_t = 8)]
    daemon_kills: u32,
    /// Kills of shims in a minute
    #[arg(long, default_value_t = 0)]
    shim_kills: u32,
    /// Kills of CNI plugins in a minute; with them, networks are made by the reference plugins
    #[arg(long, default_value_t = 0)]
    plugin_kills: u32,
    /// Where the trace of all calls goes, and after a failure the daemon's log
    #[arg(long, default_value = "target/churn")]
    output: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = options.seed.unwrap_or_else(|| {
        let now = now.unwrap_or_default();
        now.as_secs() ^ u64::from(now.subsec_nanos())
    });
    let mut out = io::stdout();
    // Nobody reads: the exit code remains.
    let _ = writeln!(out, "seed {seed}");
    let options = churn::Options {
        seed,
        duration: Duration::from_secs_f64(options.minutes.clamp(0.0, 1e6) * 60.0),
        clients: options.clients,
        daemon_kills: options.daemon_kills,
        shim_kills: options.shim_kills,
        plugin_kills: options.plugin_kills,
        output: options.output.join(seed.to_string()),
    };
    match churn::run(&options).await {
        Ok(report) => {
            let _ = write!(out, "{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(out, "{error:#}");
            ExitCode::FAILURE
        }
    }
}
