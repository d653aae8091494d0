//! `corten image`: load, ls, rm.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use corten_proto::{
    admin::{LoadImagesRequest, admin_client::AdminClient},
    cri::{self, image_service_client::ImageServiceClient},
};
use tonic::transport::Channel;

use super::client::{Error, connect};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The daemon's socket
    #[arg(long, default_value = "/run/corten/corten.sock", value_name = "PATH")]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add the images of an OCI or docker archive
    Load { archive: PathBuf },
    /// List images
    Ls,
    /// Remove images with all of their names
    Rm {
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// Runs the command and returns what to print.
pub(super) fn run(arguments: Arguments) -> Result<String, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| Error::File {
        path: "start".into(),
        source,
    })?;
    runtime.block_on(async {
        let channel = connect(&arguments.socket).await?;
        match arguments.command {
            Command::Load { archive } => load(channel, &archive).await,
            Command::Ls => list(channel).await,
            Command::Rm { images } => remove(channel, images).await,
        }
    })
}

async fn load(channel: Channel, archive: &Path) -> Result<String, Error> {
    let named = |source| Error::File {
        path: archive.display().to_string(),
        source,
    };
    let path = std::fs::canonicalize(archive)
        .map_err(named)?
        .display()
        .to_string();
    let reply = AdminClient::new(channel)
        .load_images(LoadImagesRequest { path })
        .await?;
    Ok(reply
        .into_inner()
        .images
        .iter()
        .fold(String::new(), |text, image| text + image + "\n"))
}

async fn list(channel: Channel) -> Result<String, Error> {
    let reply = ImageServiceClient::new(channel)
        .list_images(cri::ListImagesRequest::default())
        .await?;
    let mut text = format!("{:<60} {:<15} {:>12}\n", "NAME", "ID", "BYTES");
    for image in reply.into_inner().images {
        let id = image
            .id
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect::<String>();
        let names = if image.repo_tags.is_empty() {
            &image.repo_digests
        } else {
            &image.repo_tags
        };
        let unnamed = ["<none>".to_owned()];
        for name in if names.is_empty() {
            unnamed.iter()
        } else {
            names.iter()
        } {
            let _ = writeln!(text, "{name:<60} {id:<15} {:>12}", image.size);
        }
    }
    Ok(text)
}

async fn remove(channel: Channel, images: Vec<String>) -> Result<String, Error> {
    let mut client = ImageServiceClient::new(channel);
    for image in images {
        let spec = cri::ImageSpec {
            image,
            ..cri::ImageSpec::default()
        };
        client
            .remove_image(cri::RemoveImageRequest { image: Some(spec) })
            .await?;
    }
    Ok(String::new())
}
