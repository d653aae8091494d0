//! The command line's connection to a running daemon.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Why a command could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("connect to {path}: is `corten serve` running there? Give its socket with --socket")]
    Connect {
        path: String,
        source: tonic::transport::Error,
    },
    #[error("{}", .0.message())]
    Refused(#[from] tonic::Status),
    #[error("{path}")]
    File {
        path: String,
        source: std::io::Error,
    },
}

/// Connects to the daemon's socket.
pub(crate) async fn connect(socket: &Path) -> Result<Channel, Error> {
    let path: PathBuf = crate::config::without_scheme(socket);
    let target = path.clone();
    let connector = service_fn(move |_: Uri| {
        let target = target.clone();
        async move { UnixStream::connect(target).await.map(TokioIo::new) }
    });
    // The address is not used; tonic wants one.
    let endpoint = Endpoint::from_static("http://corten");
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|source| Error::Connect {
        path: path.display().to_string(),
        source,
    })
}
