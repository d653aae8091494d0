//! The way to a host: straight, or by the HTTP proxy that the daemon's environment names.
//!
//! `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not, as curl reads them; a host of this machine is
//! never asked for by a proxy (as in Go's httpproxy, which other runtimes use). Hosts with TLS are reached through a tunnel (RFC 9110, section 9.3.6,
//! CONNECT), others by requests in absolute form (section 7.1 of the same).

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

/// Which hosts are reached by which proxy, as the environment was when it was read.
#[derive(Debug, Clone)]
pub(super) struct Proxies(Arc<Matcher>);

impl Proxies {
    pub(super) fn from_env() -> Self {
        Self(Arc::new(Matcher::from_env()))
    }

    fn of(&self, destination: &Uri) -> Option<Intercept> {
        match is_this_machine(destination) {
            true => None,
            false => self.0.intercept(destination),
        }
    }

    /// What a request without a tunnel has to show to its proxy.
    pub(super) fn authorization(&self, destination: &Uri) -> Option<HeaderValue> {
        match destination.scheme_str() {
            Some("http") => self.of(destination)?.basic_auth().cloned(),
            _ => None,
        }
    }
}

fn is_this_machine(destination: &Uri) -> bool {
    let host = destination.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Connects to hosts.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) http: HttpConnector,
    pub(super) proxies: Proxies,
}

#[derive(Debug, thiserror::Error)]
#[error("by the proxy {proxy} of the environment")]
struct ProxyError {
    proxy: Uri,
    source: Box<dyn std::error::Error + Send + Sync>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let mut http = self.http.clone();
        let Some(proxy) = self.proxies.of(&destination) else {
            return Box::pin(async move {
                let stream = http.call(destination).await?;
                Ok(Stream {
                    stream,
                    absolute_form: false,
                })
            });
        };
        Box::pin(async move {
            let uri = proxy.uri().clone();
            let connected = by_proxy(http, destination, &proxy).await;
            connected.map_err(|source| ProxyError { proxy: uri, source }.into())
        })
    }
}

async fn by_proxy(
    mut http: HttpConnector,
    destination: Uri,
    proxy: &Intercept,
) -> Result<Stream, BoxError> {
    let uri = proxy.uri().clone();
    if uri.scheme_str() != Some("http") {
        return Err("only proxies of the scheme http are supported".into());
    }
    if destination.scheme_str() == Some("http") {
        let stream = http.call(uri).await?;
        return Ok(Stream {
            stream,
            absolute_form: true,
        });
    }
    let mut tunnel = Tunnel::new(uri, http);
    if let Some(authorization) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(authorization.clone());
    }
    let stream = tunnel.call(destination).await.map_err(|error| {
        let mut text = error.to_string();
        let mut cause = error.source();
        if cause.is_none() {
            text += "; check its rules, and the user name and password in its URL";
        }
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    })?;
    Ok(Stream {
        stream,
        absolute_form: false,
    })
}

/// A connection, and how requests are written on it.
pub(super) struct Stream {
    stream: TokioIo<TcpStream>,
    absolute_form: bool,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absolute_form = &self.absolute_form;
        f.debug_struct("Stream")
            .field("absolute_form", absolute_form)
            .finish_non_exhaustive()
    }
}

impl Stream {
    fn inner(self: Pin<&mut Self>) -> Pin<&mut TokioIo<TcpStream>> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.absolute_form)
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(no: &str, destination: &'static str, want: Option<&str>) {
        let matcher = Matcher::builder()
            .http("http://plain:3128")
            .https("http://user:p%40ss@tunnel:3128")
            .no(no)
            .build();
        let proxies = Proxies(Arc::new(matcher));
        let proxy = proxies.of(&Uri::from_static(destination));
        let proxy = proxy.map(|proxy| proxy.uri().to_string());
        assert_eq!(proxy.as_deref(), want, "{destination} without {no:?}");
    }

    #[test]
    fn the_environment_decides() {
        check("", "https://ghcr.io/v2/", Some("http://tunnel:3128/"));
        check("", "http://registry:5000/v2/", Some("http://plain:3128/"));
        check("ghcr.io", "https://ghcr.io/v2/", None);
        check("ghcr.io", "https://pkg.ghcr.io/v2/", None);
        check(
            "ghcr.io",
            "https://notghcr.io/v2/",
            Some("http://tunnel:3128/"),
        );
        check("10.0.0.0/8, other", "http://10.1.2.3:5000/v2/", None);
        check("*", "https://ghcr.io/v2/", None);
        for own in [
            "http://localhost:5000/",
            "http://127.0.0.9/",
            "https://[::1]:5000/",
        ] {
            check("", own, None);
        }
    }
}
