//! The client of registries: manifests and blobs by the OCI distribution API, over the mirrors that
//! the operator configured.
//!
//! ```text
//! Registry (one per daemon)      --session-->  Session (one per pull: hosts, credentials, tokens)
//!   hosts.rs   which hosts, in which order       session.rs  each host in turn, retries, the trail
//!   tls.rs     whom they trust                   exchange.rs one request: challenge, redirects (location.rs)
//!   transport.rs, proxy.rs  sockets              auth.rs     whose credentials, which token
//!                                                blob.rs     a layer's bytes, over several connections
//! ```
//!
//! Rule: OCI distribution-spec v1.1; containerd's `hosts.toml` format, so existing mirrors work.

mod hosts;

mod session;

mod blob;

mod exchange;

mod location;

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

use http::Uri;

use crate::error::Error;
use crate::reference::Reference;
use session::Shared;
use transport::Clients;

/// What all pulls share.
#[derive(Debug)]
pub(crate) struct Registry {
    certs_dirs: Vec<PathBuf>,
    layer_hosts: Vec<Uri>,
    clients: Clients,
    progress_timeout: Duration,
}

impl Registry {
    /// # Errors
    /// Content, if one of `layer_hosts` is no host.
    pub(crate) fn new(
        certs_dirs: Vec<PathBuf>,
        layer_hosts: &[String],
        progress_timeout: Duration,
    ) -> Result<Self, Error> {
        let host = |text: &String| match hosts::layer_host(text) {
            Some(host) => Ok(host),
            None => Err(Error::content(
                format!("layer host {text:?}"),
                "want https://HOST or https://HOST:PORT, or http for https",
            )),
        };
        Ok(Self {
            certs_dirs,
            layer_hosts: layer_hosts.iter().map(host).collect::<Result<_, _>>()?,
            clients: Clients::new(progress_timeout),
            progress_timeout,
        })
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
        let outside = match self.layer_hosts.is_empty() {
            true => None,
            false => Some(self.clients.outside(&self.layer_hosts)?),
        };
        let shared = Shared {
            outside,
            proxies: self.clients.proxies.clone(),
            progress_timeout: self.progress_timeout,
        };
        Ok(Session::new(reference.clone(), hosts, auth, shared))
    }
}
