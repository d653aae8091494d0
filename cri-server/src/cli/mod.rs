//! The command line.

mod client;
mod image;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use corten_sys::process;
use rustix::{
    fs::Mode,
    process::{Resource, getrlimit, setrlimit, umask},
};

use crate::{
    config::{self, Config, Flags},
    error::chain,
    log, serve,
};

/// Bad usage or configuration (sysexits.h, EX_USAGE).
const USAGE: u8 = 64;

/// Threads for work that blocks; what does not find one waits for its turn.
const BLOCKING_THREADS: usize = 512;

/// A Kubernetes container runtime
#[derive(Debug, Parser)]
#[command(
    name = "corten",
    version,
    disable_version_flag = true,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the CRI
    Serve {
        /// Configuration; /etc/corten/config.toml where that file is there
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Pull, list, check and remove images of a running daemon
    Image(image::Arguments),
    /// Print a script that completes commands in a shell
    Completions { shell: clap_complete::Shell },
    /// Show the version
    Version,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its default
    Default,
    /// Read a file as the daemon would
    Check {
        #[arg(default_value = config::DEFAULT_PATH)]
        file: PathBuf,
    },
}

/// Runs what the arguments say.
pub(crate) fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match arguments.command {
        Command::Serve { config, flags } => serve_command(config.as_deref(), &flags),
        Command::Config(ConfigCommand::Default) => print(config::DEFAULT),
        Command::Config(ConfigCommand::Check { file }) => {
            match Config::load(Some(&file), &Flags::default()) {
                Ok(_) => print(&format!("{}: good\n", file.display())),
                Err(error) => fail(&error, USAGE),
            }
        }
        Command::Image(arguments) => match image::run(arguments) {
            Ok((text, is_good)) => match (print(&text), is_good) {
                (ExitCode::SUCCESS, false) => ExitCode::FAILURE,
                (code, _) => code,
            },
            Err(error) => fail(&error, 1),
        },
        Command::Completions { shell } => {
            let mut script = Vec::new();
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "corten", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Version => print(&format!("corten {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

fn serve_command(path: Option<&Path>, flags: &Flags) -> ExitCode {
    if let Err(error) = process::keep_descriptors_from_programs() {
        return fail(&error, 1);
    }
    raise_descriptor_limit();
    // What containers and plugins need is readable, and what is the daemon's own says so itself.
    umask(Mode::from_raw_mode(0o022));
    let config = match Config::load(path, flags) {
        Ok(config) => config,
        Err(error) => return fail(&error, USAGE),
    };
    log::init(&config);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    let served = runtime.block_on(serve::serve(config));
    // Work on blocking threads may hang on a dead disk: the process ends all the same.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = error.chain(), "corten cannot serve");
            ExitCode::FAILURE
        }
    }
}

/// Each shim, session and pull takes some, and the soft limit is 1024 for the sake of programs that call select(2).
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What is allowed is enough for fewer pods.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_closed) => ExitCode::FAILURE,
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    // In one piece, whatever else writes to the same place; some causes end with a line break of their own.
    let line = format!("corten: {}\n", chain(error).trim_end());
    let _ = io::stderr().write_all(line.as_bytes());
    ExitCode::from(code)
}
