//! Corten against containerd with runc, side by side over their CRI sockets: `cargo xtask bench`.
//!
//! ```text
//!   isolation    private mounts, network, process ids and cgroups, all gone at the end
//!   daemon, cri  the two sides, and equal requests to both
//!   latency, paced, seccomp, batch, memory, sync_calls, mount_table, pull, streams, sessions, probes
//!                one file a measurement
//!   processor, processes   what a side uses
//!   samples, report   figures, Markdown, requirements
//! ```
#![forbid(unsafe_code)]

mod isolation;

mod cri;
mod daemon;

mod batch;
mod latency;
mod memory;
mod mount_table;
mod paced;
mod probes;
mod pull;
mod seccomp;
mod sessions;
mod streams;
mod sync_calls;

mod processes;
mod processor;

mod report;
mod samples;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use corten_proto::cri::NamespaceMode;
use daemon::{Daemon, Runtime, Setup};
use report::{Operation, Report};
use streams::{Load, Protocol};

const HOST_POD: Operation = Operation {
    name: "host-network pod start",
    p50_factor: 15.0,
};
const BRIDGE_POD: Operation = Operation {
    name: "bridge pod start",
    p50_factor: 12.0,
};
const EXEC: Operation = Operation {
    name: "ExecSync of `true`",
    p50_factor: 15.0,
};

const PODS: usize = 100;
const SHORT_PODS: usize = 20;
const SYNC_PODS: usize = 20;
const PULLS: usize = 5;
const SHORT_PULLS: usize = 2;
const STREAMS: Load = Load {
    rounds: 9,
    bytes: 256 << 20,
};
const SHORT_STREAMS: Load = Load {
    rounds: 3,
    bytes: 64 << 20,
};
const SESSIONS: u64 = 200;
const MEMORY: memory::Range = memory::Range { few: 10, many: 60 };
const SHORT_MEMORY: memory::Range = memory::Range { few: 5, many: 15 };

/// Measures Corten against containerd with runc
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Exit with 1 when a figure falls short of its requirement
    #[arg(long)]
    check: bool,
    /// Pods and execs per side, instead of 100
    #[arg(long)]
    pods: Option<usize>,
    /// A fifth of the pods: for a first look, not for figures
    #[arg(long)]
    short: bool,
    /// How long probes run
    #[arg(long, default_value = "10")]
    minutes: u32,
    /// Measure these only
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measurement>,
    /// Measure one side only, without ratios
    #[arg(long, value_enum, conflicts_with = "check")]
    side: Option<Runtime>,
    /// Where `corten` and `corten-shim` are
    #[arg(long)]
    corten_dir: PathBuf,
    /// Where `containerd`, its shim, `ctr` and `runc` are
    #[arg(long)]
    containerd_dir: PathBuf,
    /// Where the reference CNI plugins are
    #[arg(long, default_value = "/usr/lib/cni")]
    cni_dir: PathBuf,
    /// Durable data while the bench runs; on a file system that can hold overlays
    #[arg(long)]
    root: PathBuf,
    /// The client of streams, `corten-streams`
    #[arg(long)]
    streams_client: PathBuf,
    /// The registry storage with the image to pull; what `hack/bench-image` prints
    #[arg(long)]
    pull_storage: Option<PathBuf>,
    /// Where the Markdown goes, besides the standard output
    #[arg(long)]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measurement {
    Host,
    Bridge,
    Exec,
    Memory,
    Sync,
    Mounts,
    Seccomp,
    Batch,
    Streams,
    Sessions,
    /// Only if it is named: it takes ten minutes
    Probes,
    /// Only if it is named: its image takes minutes to make
    Pull,
}

impl Options {
    fn pods(&self) -> usize {
        self.pods
            .unwrap_or(if self.short { SHORT_PODS } else { PODS })
    }

    fn wants(&self, measurement: Measurement) -> bool {
        self.only.is_empty() || self.only.contains(&measurement)
    }

    fn sides(&self) -> Vec<Runtime> {
        match self.side {
            Some(side) => vec![side],
            None => vec![Runtime::Corten, Runtime::Containerd],
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    match isolation::enter(&options.root, |cgroup| run(&options, cgroup)) {
        Ok(code) => code,
        Err(error) => {
            report::note(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, cgroup: &str) -> Result<ExitCode> {
    let setup = Setup {
        corten_dir: options.corten_dir.clone(),
        containerd_dir: options.containerd_dir.clone(),
        cni_dir: options.cni_dir.clone(),
        root: options.root.join(cgroup),
        state: PathBuf::from("/run").join(cgroup),
        cgroup: cgroup.to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let measured = runtime
        .context("start the async runtime")?
        .block_on(measure(options, &setup));
    let (head, report) = keep_logs_on_error(measured, &setup)?;

    let markdown = report.markdown(&head);
    fs::write(&options.output, &markdown).context("write the table")?;
    std::io::Write::write_all(&mut std::io::stdout(), markdown.as_bytes()).context("print")?;
    for failure in report.failures() {
        report::note(failure);
    }
    if report.failures().is_empty() {
        report::note("every requirement holds");
    }
    let failed = options.check && !report.failures().is_empty();
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Durable data goes with the bench; after an error it stays, for its logs.
fn keep_logs_on_error<T>(measured: Result<T>, setup: &Setup) -> Result<T> {
    match measured {
        Ok(measured) => {
            fs::remove_dir_all(&setup.root).context("remove the bench's data")?;
            Ok(measured)
        }
        Err(error) => Err(error.context(format!("logs are kept in {}", setup.root.display()))),
    }
}

async fn measure(options: &Options, setup: &Setup) -> Result<(String, Report)> {
    let mut report = Report::default();
    if options.only.contains(&Measurement::Pull) {
        pulls(options, setup, &mut report).await?;
    }
    let archive = setup.write_image()?;
    let mut sides = Vec::new();
    for runtime in options.sides() {
        let daemon = setup.start(runtime).await?;
        daemon.load_image(&archive)?;
        sides.push(daemon);
    }
    let head = head(options, &mut sides).await?;
    latencies(options, &mut sides, &mut report).await?;
    if options.wants(Measurement::Streams) {
        let load = match options.short {
            true => SHORT_STREAMS,
            false => STREAMS,
        };
        let streams = streams::throughput(&mut sides, &options.streams_client, load);
        report.add_streams(&streams.await?);
    }
    // What follows looks at processes: only those of one side may be there.
    for daemon in sides {
        daemon.stop().await?;
    }
    for runtime in options.sides() {
        one_side_alone(options, setup, runtime, &mut report).await?;
    }
    if options.wants(Measurement::Batch) {
        batches(options, setup, &mut report).await?;
    }
    if options.only.contains(&Measurement::Probes) {
        // At a hundred a second, and more than ten times the processor time each, containerd falls behind.
        let soak = probes::soak(setup, Runtime::Corten, options.pods(), options.minutes);
        report.add_soak(&soak.await?);
    }
    Ok((head, report))
}

async fn pulls(options: &Options, setup: &Setup, report: &mut Report) -> Result<()> {
    let storage = options.pull_storage.as_deref();
    let storage = storage.context("--pull-storage is missing")?;
    report::note("pulls");
    let rounds = if options.short { SHORT_PULLS } else { PULLS };
    // A side's folder is a disk of its own meanwhile.
    let setup = Setup {
        root: setup.root.join("pull"),
        state: setup.state.join("pull"),
        ..setup.clone()
    };
    let pulls = pull::in_turns(&setup, &options.sides(), storage, rounds).await?;
    report.add_pulls(&pulls);
    Ok(())
}

async fn batches(options: &Options, setup: &Setup, report: &mut Report) -> Result<()> {
    let mut sides = Vec::new();
    for runtime in options.sides() {
        report::note(&format!("batches of {}", runtime.name()));
        sides.push(batch::starts(setup, runtime, options.pods()).await?);
    }
    report.add_batches(&sides);
    Ok(())
}

async fn latencies(options: &Options, sides: &mut [Daemon], report: &mut Report) -> Result<()> {
    let n = options.pods();
    let starts = [
        (Measurement::Host, HOST_POD, NamespaceMode::Node),
        (Measurement::Bridge, BRIDGE_POD, NamespaceMode::Pod),
    ];
    for (measurement, operation, network) in starts {
        if options.wants(measurement) {
            report::note(operation.name);
            report.add_latency(operation, &latency::pod_starts(sides, network, n).await?);
        }
    }
    if options.wants(Measurement::Exec) {
        report::note(EXEC.name);
        report.add_latency(EXEC, &latency::execs(sides, n).await?);
        report.add_paced(&paced::execs(sides, 2 * n).await?);
    }
    Ok(())
}

async fn one_side_alone(
    options: &Options,
    setup: &Setup,
    runtime: Runtime,
    report: &mut Report,
) -> Result<()> {
    let begin = |what: &str| report::note(&format!("{what} of {}", runtime.name()));
    if options.wants(Measurement::Memory) {
        begin("memory");
        let range = if options.short { SHORT_MEMORY } else { MEMORY };
        report.add_memory(memory::per_pod(setup, runtime, range).await?, range);
    }
    if options.wants(Measurement::Sync) {
        begin("sync calls");
        let calls = sync_calls::count(setup, runtime, SYNC_PODS).await?;
        report.add_sync_calls(runtime, calls, SYNC_PODS);
    }
    if options.wants(Measurement::Mounts) {
        begin("mount table");
        let n = options.pods().div_ceil(2);
        report.add_mount_table(&mount_table::pod_starts(setup, runtime, n).await?);
    }
    if options.wants(Measurement::Seccomp) {
        begin("starts with and without seccomp");
        report.add_seccomp(&seccomp::starts(setup, runtime, options.pods()).await?);
    }
    if options.wants(Measurement::Sessions) {
        for protocol in [Protocol::Spdy, Protocol::WebSocket] {
            // It knows version 4 at most, and Kubernetes' library offers the fifth.
            if (runtime, protocol) == (Runtime::Containerd, Protocol::WebSocket) {
                continue;
            }
            begin("memory of sessions");
            let many = (protocol, SESSIONS);
            let sessions = sessions::memory(setup, runtime, &options.streams_client, many);
            report.add_sessions(&sessions.await?);
        }
    }
    Ok(())
}

/// What was measured, on what, in one paragraph.
async fn head(options: &Options, sides: &mut [Daemon]) -> Result<String> {
    let mut names = Vec::new();
    for daemon in sides {
        let version = daemon.client.version().await?;
        names.push(format!(
            "{} {}",
            version.runtime_name, version.runtime_version
        ));
    }
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    let cores = std::thread::available_parallelism().context("count cores")?;
    Ok(format!(
        "{}; {} pods and execs each, one at a time, in turns of 10, PID mode CONTAINER, seccomp \
         RuntimeDefault; Linux {}, {cores} cores.",
        names.join(" against "),
        options.pods(),
        kernel.trim(),
    ))
}
