//! `corten image pull`.

mod bars;
mod lines;

use std::io::{self, IsTerminal as _, Read as _};

use clap::Args;
use corten_proto::admin::{LayerProgress, PullImageRequest, admin_client::AdminClient};
use serde_json::json;
use tonic::transport::Channel;

use self::{bars::Bars, lines::Lines};
use super::Report;
use crate::cli::client::Error;

/// A user name and a password are shorter.
const MAX_CREDENTIALS: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    image: String,
    /// Read USER:PASSWORD for the registry from standard input
    #[arg(long)]
    creds_stdin: bool,
    /// Print nothing but the image's id
    #[arg(long, short)]
    quiet: bool,
}

/// What a person sees while layers come.
enum View {
    Bars(Bars),
    Lines(Lines),
    None,
}

impl View {
    fn show(&mut self, layers: &[LayerProgress]) {
        match self {
            Self::Bars(bars) => bars.show(layers),
            Self::Lines(lines) => lines.show(layers),
            Self::None => {}
        }
    }
}

pub(super) async fn run(
    channel: Channel,
    arguments: Arguments,
    json: bool,
) -> Result<Report, Error> {
    let mut view = match (arguments.quiet || json, io::stdout().is_terminal()) {
        (true, _) => View::None,
        (false, true) => View::Bars(Bars::default()),
        (false, false) => View::Lines(Lines::default()),
    };
    let (username, password) = match arguments.creds_stdin {
        true => read_credentials()?,
        false => Default::default(),
    };
    let request = PullImageRequest {
        reference: arguments.image.clone(),
        username,
        password,
    };
    let reply = AdminClient::new(channel).pull_image(request).await?;
    let mut stream = reply.into_inner();
    let mut id = String::new();
    while let Some(progress) = stream.message().await? {
        view.show(&progress.layers);
        id = progress.image_id;
    }
    drop(view);
    let json = json!({ "image": arguments.image, "id": id });
    Ok(Report::good(format!("{id}\n"), json))
}

fn read_credentials() -> Result<(String, String), Error> {
    let mut text = String::new();
    let read = io::stdin().take(MAX_CREDENTIALS).read_to_string(&mut text);
    let credentials = read.and_then(|_| {
        let line = text.trim_end_matches(['\r', '\n']);
        let pair = line.split_once(':').filter(|(user, _)| !user.is_empty());
        let (user, password) = pair.ok_or_else(|| io::Error::other("want USER:PASSWORD"))?;
        Ok((user.to_owned(), password.to_owned()))
    });
    credentials.map_err(|source| Error::File {
        path: "--creds-stdin".into(),
        source,
    })
}
