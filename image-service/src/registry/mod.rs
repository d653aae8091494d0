//! The client of registries: manifests and blobs by the OCI distribution API, over the mirrors that
//! the operator configured.
//!
//! ```text
//! Registry (one per daemon)      --session-->  Session (one per pull: hosts, credentials, tokens)
//!   hosts.rs   which hosts, in which order       session.rs  each host in turn, retries, the trail
//!   tls.rs     whom they trust                   exchange.rs one request: challenge, redirects
//!   transport.rs, proxy.rs  sockets              auth.rs     whose credentials, which token
//!                                                blob.rs     a layer's bytes, over several connections
//! ```
//!
//! Rule: OCI distribution-spec v1.1; containerd's `hosts.toml` format, so existing mirrors work.

mod hosts;

mod session;

mod blob;

mod exchange;

mod auth;

mod transport;

mod proxy;

mod tls;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

pub use auth::Auth;
pub(crate) use blob::Download;
pub(crate) use session::Session;

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::reference::Reference;
use transport::Clients;

/// What all pulls share.
#[derive(Debug)]
pub(crate) struct Registry {
    certs_dirs: Vec<PathBuf>,
    clients: Clients,
    progress_timeout: Duration,
}

impl Registry {
    pub(crate) fn new(certs_dirs: Vec<PathBuf>, progress_timeout: Duration) -> Self {
        Self {
            certs_dirs,
            clients: Clients::new(progress_timeout),
            progress_timeout,
        }
    }

    /// Reads the hosts files anew, so a change counts from the next pull on.
    ///
    /// # Errors
    /// [`Error::HostsFile`], [`Error::Io`] if a hosts file or a certificate cannot be read.
    pub(crate) fn session(
        &self,
        reference: &Reference,
        auth: Option<Auth>,
    ) -> Result<Session, Error> {
        let entries = hosts::read(&self.certs_dirs, reference.registry())?;
        let hosts = entries
            .into_iter()
            .map(|entry| self.clients.connect(entry))
            .collect::<Result<_, _>>()?;
        Ok(Session::new(
            reference.clone(),
            hosts,
            auth,
            self.clients.proxies.clone(),
            self.progress_timeout,
        ))
    }
}
