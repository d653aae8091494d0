//! Sockets: one pooled HTTP client for all hosts with the system's trust, one more per pull for a
//! host with certificates of its own (those files are read anew each time).

use std::sync::OnceLock;
use std::time::Duration;

use http::Uri;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::hosts::{Entry, Trust};
use super::location::same_origin;
use super::proxy::{Connector, Proxies};
use super::tls;
use crate::error::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(20);

pub(super) type HttpClient = Client<HttpsConnector<Connector>, Full<Bytes>>;

/// A host to ask, with the means to reach it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) entry: Entry,
    pub(super) client: HttpClient,
    /// For the hosts that this one leads to, by a redirect or as its token server: with its CA, but neither without checks nor
    /// with its certificate. Both are for the host that the operator named, not for whatever that names.
    pub(super) elsewhere: HttpClient,
}

impl Host {
    pub(super) fn is_at(&self, url: &Uri) -> bool {
        same_origin(&self.entry.base, url)
    }
}

/// Hosts that may be asked for a layer which an image's manifest says lies there.
#[derive(Debug, Clone)]
pub(super) struct Outside {
    allowed: Vec<Uri>,
    client: HttpClient,
}

impl Outside {
    /// `None` if the operator does not allow it.
    pub(super) fn host(&self, url: &Uri) -> Option<Host> {
        let is_allowed = self.allowed.iter().any(|host| same_origin(host, url));
        is_allowed.then(|| Host {
            entry: Entry::of_url(url.clone()),
            client: self.client.clone(),
            elsewhere: self.client.clone(),
        })
    }
}

#[derive(Debug)]
pub(super) struct Clients {
    system_trust: OnceLock<HttpClient>,
    connect_timeout: Duration,
    pub(super) proxies: Proxies,
}

impl Clients {
    pub(super) fn new(progress_timeout: Duration) -> Self {
        Self {
            system_trust: OnceLock::new(),
            connect_timeout: CONNECT_TIMEOUT.min(progress_timeout),
            proxies: Proxies::from_env(),
        }
    }

    pub(super) fn connect(&self, entry: Entry) -> Result<Host, Error> {
        let client = self.client(&entry.tls)?;
        let elsewhere = match entry.tls.for_others() {
            same if same == entry.tls => client.clone(),
            less => self.client(&less)?,
        };
        Ok(Host {
            entry,
            client,
            elsewhere,
        })
    }

    /// The way to hosts that are no registries.
    pub(super) fn outside(&self, allowed: &[Uri]) -> Result<Outside, Error> {
        Ok(Outside {
            allowed: allowed.to_vec(),
            client: self.client(&Trust::default())?,
        })
    }

    fn client(&self, trust: &Trust) -> Result<HttpClient, Error> {
        if *trust != Trust::default() {
            return self.build(trust);
        }
        if let Some(client) = self.system_trust.get() {
            return Ok(client.clone());
        }
        let client = self.build(trust)?;
        Ok(self.system_trust.get_or_init(|| client).clone())
    }

    fn build(&self, trust: &Trust) -> Result<HttpClient, Error> {
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(self.connect_timeout));
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(trust)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector {
                http,
                proxies: self.proxies.clone(),
            });
        Ok(Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector))
    }
}
