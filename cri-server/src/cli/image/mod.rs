//! `corten image`: one file for each command.

mod df;
mod gc;
mod inspect;
mod load;
mod ls;
mod pull;
mod rm;
mod save;
mod table;
mod verify;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Error, connect};

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The daemon's socket
    #[arg(
        long,
        global = true,
        default_value = "/run/corten/corten.sock",
        value_name = "PATH"
    )]
    socket: PathBuf,
    /// Print one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch an image from its registry
    Pull(pull::Arguments),
    /// List images
    Ls,
    /// Show all that is known of an image
    Inspect { image: String },
    /// Remove images with all of their names
    Rm {
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Add the images of an OCI or docker archive
    Load { archive: PathBuf },
    /// Write images to one archive, which is an OCI layout and a docker archive
    Save {
        #[arg(required = true)]
        images: Vec<String>,
        /// The archive; a file there is replaced
        #[arg(long, short, value_name = "ARCHIVE")]
        output: PathBuf,
    },
    /// Compare all layers with what was pulled
    Verify {
        /// Pull what is broken again; remove images that cannot be
        #[arg(long)]
        repair: bool,
    },
    /// Remove images that are neither pinned nor of any container
    Gc {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Show where the disk goes
    Df,
}

/// What a command has to say.
pub(in crate::cli) struct Report {
    text: String,
    json: Value,
    /// The command did its work, and the news is bad.
    pub(in crate::cli) is_bad: bool,
}

impl Report {
    fn good(text: String, json: Value) -> Self {
        Self {
            text,
            json,
            is_bad: false,
        }
    }
}

/// Runs the command and returns what to print, and whether that is good news.
pub(in crate::cli) fn run(arguments: Arguments) -> Result<(String, bool), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| Error::File {
        path: "start".into(),
        source,
    })?;
    let json = arguments.json;
    let report = runtime.block_on(report(arguments))?;
    let text = match json {
        true => format!("{:#}\n", report.json),
        false => report.text,
    };
    Ok((text, !report.is_bad))
}

async fn report(arguments: Arguments) -> Result<Report, Error> {
    let channel = connect(&arguments.socket).await?;
    match arguments.command {
        Command::Pull(pull) => pull::run(channel, pull, arguments.json).await,
        Command::Ls => ls::run(channel).await,
        Command::Inspect { image } => inspect::run(channel, image).await,
        Command::Rm { images } => rm::run(channel, images).await,
        Command::Load { archive } => load::run(channel, &archive).await,
        Command::Save { images, output } => save::run(channel, images, &output).await,
        Command::Verify { repair } => verify::run(channel, repair).await,
        Command::Gc { dry_run } => gc::run(channel, dry_run).await,
        Command::Df => df::run(channel).await,
    }
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    |source| Error::File { path, source }
}
