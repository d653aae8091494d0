//! One GET to one host: the challenge answered, redirects followed, the failure classed.

use std::error::Error as _;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::header::{
    ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, PROXY_AUTHORIZATION, RANGE,
    RETRY_AFTER,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use serde::Deserialize;
use tokio::time::timeout;

use super::auth::{self, Challenge, Credential};
use super::session::Session;
use super::transport::{Host, HttpClient};
use crate::error::ErrorKind;

const MAX_REDIRECTS: usize = 8;
const MAX_TOKEN: usize = 1 << 20;
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("corten/", env!("CARGO_PKG_VERSION"));

/// What to get, below a host's base.
#[derive(Debug)]
pub(super) struct Get {
    /// Shape: `manifests/latest`, `blobs/sha256:...`.
    pub(super) path: String,
    pub(super) accept: Option<&'static str>,
    /// Unit: bytes; `None` is all.
    pub(super) range: Option<Range<u64>>,
}

/// Why one try at one host came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) text: String,
    /// How often such a request is worth trying, the first time included.
    pub(super) tries: u32,
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            tries: 1,
            retry_after: None,
        }
    }

    pub(super) fn worth(self, tries: u32) -> Self {
        Self { tries, ..self }
    }

    fn status(response: &Response<Incoming>, credentials: &str) -> Self {
        let status = response.status();
        let kind = match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => ErrorKind::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Unauthorized,
            _ => ErrorKind::RegistryUnavailable,
        };
        if kind == ErrorKind::Unauthorized {
            return Self::new(kind, format!("{status} ({credentials})"));
        }
        let again = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            );
        Self {
            tries: if again { 3 } else { 1 },
            retry_after: retry_after(response.headers()),
            ..Self::new(kind, status.to_string())
        }
    }
}

impl Session {
    /// # Errors
    /// Anything but a success (or a range's 206) of the host that finally answered.
    pub(super) async fn get(&self, index: usize, get: &Get) -> Result<Response<Incoming>, Failure> {
        let host = &self.hosts[index];
        let mut shown = self.known_token(index);
        let mut answered = false;
        loop {
            let (response, is_host) = self.follow(host, get, shown.as_ref()).await?;
            if response.status().is_success() {
                return Ok(response);
            }
            // Whom the host redirects to may not ask for the host's credentials.
            if response.status() != StatusCode::UNAUTHORIZED || answered || !is_host {
                return Err(Failure::status(&response, self.who(host)));
            }
            answered = true;
            let header = self.answer(host, response.headers()).await?;
            self.remember_token(index, header.clone());
            shown = Some(header);
        }
    }

    /// The final answer, and whether the host itself gave it.
    async fn follow(
        &self,
        host: &Host,
        get: &Get,
        shown: Option<&HeaderValue>,
    ) -> Result<(Response<Incoming>, bool), Failure> {
        let origin = self.url(host, &get.path)?;
        let mut url = origin.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = request(Method::GET, &url, Bytes::new())?;
            let headers = request.headers_mut();
            // What is meant for the host stays with the host.
            let is_host = same_origin(&url, &origin);
            if is_host {
                headers.extend(host.entry.header.clone());
                if let Some(shown) = shown {
                    headers.insert(AUTHORIZATION, shown.clone());
                }
            }
            if let Some(accept) = get.accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            if let Some(Range { start, end }) = &get.range {
                headers.insert(RANGE, header(&format!("bytes={start}-{}", end - 1))?);
            }
            let response = self.send(&host.client, request).await?;
            if !response.status().is_redirection() {
                return Ok((response, is_host));
            }
            url = redirect(&url, response.headers())?;
        }
        let text = format!("more than {MAX_REDIRECTS} redirects");
        Err(Failure::new(ErrorKind::RegistryUnavailable, text))
    }

    async fn send(
        &self,
        client: &HttpClient,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        if let Some(shown) = self.proxies.authorization(request.uri()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, shown);
        }
        let limit = self.progress_timeout;
        match timeout(limit, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unreachable(&error)),
            Err(_) => {
                let text = format!("no answer within {}", seconds(limit));
                Err(Failure::new(ErrorKind::RegistryUnavailable, text))
            }
        }
    }

    /// The Authorization header that a challenge asks for.
    async fn answer(&self, host: &Host, headers: &HeaderMap) -> Result<HeaderValue, Failure> {
        let denied = |text: &str| Failure::new(ErrorKind::Unauthorized, text);
        let lines = headers
            .get_all(http::header::WWW_AUTHENTICATE)
            .into_iter()
            .filter_map(|line| line.to_str().ok());
        let Some(challenge) = Challenge::parse(lines) else {
            return Err(denied("401 Unauthorized without a challenge we can answer"));
        };
        match (challenge, self.credential(host)) {
            (_, Some(Credential::Bearer(token))) => secret(&format!("Bearer {token}")),
            (Challenge::Basic, Some(Credential::Basic { username, password })) => {
                secret(&auth::basic(&username, &password))
            }
            (Challenge::Basic, _) => Err(denied(
                "401 Unauthorized (it wants a user name and a password)",
            )),
            (
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
                credential,
            ) => {
                let scope = scope.unwrap_or_else(|| self.scope());
                let mut query = vec![("scope", scope.as_str())];
                query.extend(service.as_deref().map(|service| ("service", service)));
                let token = self.token(host, &realm, &query, credential).await?;
                secret(&format!("Bearer {token}"))
            }
        }
    }

    async fn token(
        &self,
        host: &Host,
        realm: &str,
        query: &[(&str, &str)],
        credential: Option<Credential>,
    ) -> Result<String, Failure> {
        let denied = |text: String| Failure::new(ErrorKind::Unauthorized, text);
        let url = |query| {
            auth::token_url(realm, &host.entry.base, query).map_err(|text| denied(text.to_owned()))
        };
        let request = match &credential {
            Some(Credential::Identity(refresh)) => refresh_request(&url(&[])?, refresh, query)?,
            Some(Credential::Basic { username, password }) => {
                let mut request = request(Method::GET, &url(query)?, Bytes::new())?;
                let header = secret(&auth::basic(username, password))?;
                request.headers_mut().insert(AUTHORIZATION, header);
                request
            }
            _ => request(Method::GET, &url(query)?, Bytes::new())?,
        };
        let server = request.uri().authority().map(ToString::to_string);
        let server = server.unwrap_or_default();
        let response = self.send(&host.client, request).await?;
        let status = response.status();
        if !status.is_success() {
            let mut failure = Failure::status(&response, self.who(host));
            failure.text = format!("token server {server}: {}", failure.text);
            return Err(failure);
        }
        let body = Limited::new(response.into_body(), MAX_TOKEN).collect();
        let body = timeout(self.progress_timeout, body).await;
        let Ok(Ok(body)) = body else {
            let text = format!("token server {server}: the answer broke off");
            return Err(Failure::new(ErrorKind::RegistryUnavailable, text).worth(3));
        };
        match serde_json::from_slice::<Token>(&body.to_bytes()) {
            Ok(Token {
                token: Some(token), ..
            })
            | Ok(Token {
                access_token: Some(token),
                ..
            }) => Ok(token),
            _ => Err(denied(format!(
                "token server {server}: the answer holds no token"
            ))),
        }
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn request(method: Method, url: &Uri, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    Request::builder()
        .method(method)
        .uri(url)
        .header(http::header::USER_AGENT, USER_AGENT)
        .body(Full::new(body))
        .map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))
}

/// Rule: RFC 6749, section 6; the form Docker's token servers take.
fn refresh_request(
    url: &Uri,
    refresh: &str,
    query: &[(&str, &str)],
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut form = format!(
        "grant_type=refresh_token&client_id=corten&refresh_token={}",
        auth::percent(refresh)
    );
    for (key, value) in query {
        form += &format!("&{key}={}", auth::percent(value));
    }
    let mut request = request(Method::POST, url, form.into())?;
    request.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    Ok(request)
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text).map_err(|_| {
        Failure::new(
            ErrorKind::Unauthorized,
            "a credential has control characters",
        )
    })
}

fn secret(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = header(text)?;
    value.set_sensitive(true);
    Ok(value)
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority() == b.authority()
}

fn redirect(from: &Uri, headers: &HeaderMap) -> Result<Uri, Failure> {
    let refuse = |text: &str| Failure::new(ErrorKind::RegistryUnavailable, text);
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| refuse("a redirect without a location"))?;
    let target: Uri = location
        .parse()
        .map_err(|_| refuse("a redirect to what is no URL"))?;
    let mut parts = target.into_parts();
    if parts.authority.is_none() {
        if !location.starts_with('/') {
            return Err(refuse("a redirect to a relative path"));
        }
        parts.authority = from.authority().cloned();
    }
    if parts.scheme.is_none() {
        parts.scheme = from.scheme().cloned();
    }
    let target = Uri::from_parts(parts).map_err(|_| refuse("a redirect to what is no URL"))?;
    match (from.scheme_str(), target.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) => Ok(target),
        _ => Err(refuse("a redirect away from https")),
    }
}

/// Seconds or a date: RFC 9110, section 10.2.3.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// A refused connection is tried once more, a distrusted certificate is not.
fn unreachable(error: &hyper_util::client::legacy::Error) -> Failure {
    let mut text = Vec::new();
    let mut tls = false;
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        tls |= line.contains("certificate") || line.contains("TLS");
        if text.last() != Some(&line) {
            text.push(line);
        }
        cause = error.source();
    }
    if text.is_empty() {
        text.push(error.to_string());
    }
    let tries = match (tls, error.is_connect()) {
        (true, _) => 1,
        (_, true) => 2,
        _ => 3,
    };
    Failure::new(ErrorKind::RegistryUnavailable, text.join(": ")).worth(tries)
}

pub(super) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<std::ops::RangeInclusive<u64>>) {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
        let got = retry_after(&headers).map(|wait| wait.as_secs());
        match want {
            None => assert_eq!(got, None),
            Some(range) => assert!(got.is_some_and(|got| range.contains(&got)), "{got:?}"),
        }
    }

    #[test]
    fn a_host_says_when_to_come_back() {
        let date = |after| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(after));
        check("7", Some(7..=7));
        check("99999", Some(10..=10));
        check(&date(6), Some(1..=6));
        check(&date(3600), Some(10..=10));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(0..=0));
        check("-1", None);
        check("soon", None);
    }
}
