//! One GET to one host: the challenge answered, redirects followed, the failure classed.

use std::error::Error as _;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, PROXY_AUTHORIZATION,
    RANGE, RETRY_AFTER,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use tokio::time::timeout;

use super::auth::{self, Challenge, Credential};
use super::location;
use super::session::Session;
use super::transport::{Host, HttpClient};
use crate::error::ErrorKind;
use crate::json;

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
    /// The host cannot give a part of a blob; all of it may well come.
    pub(super) is_of_range: bool,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            tries: 1,
            retry_after: None,
            is_of_range: false,
        }
    }

    /// The host's answer to a request for a part.
    pub(super) fn of_range(text: impl Into<String>) -> Self {
        Self {
            is_of_range: true,
            ..Self::new(ErrorKind::RegistryUnavailable, text)
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
            is_of_range: matches!(
                status,
                StatusCode::BAD_REQUEST
                    | StatusCode::PRECONDITION_FAILED
                    | StatusCode::RANGE_NOT_SATISFIABLE
                    | StatusCode::NOT_IMPLEMENTED
            ),
            ..Self::new(kind, status.to_string())
        }
    }
}

impl Session {
    /// # Errors
    /// Anything but a success (or a range's 206) of the host that finally answered.
    pub(super) async fn get(&self, index: usize, get: &Get) -> Result<Response<Incoming>, Failure> {
        let host = &self.hosts[index];
        let mut url = self.url(host, &get.path)?;
        let mut redirects = 0;
        // Each host may ask once for a token, and once for a password.
        let mut answered: Vec<(String, bool)> = Vec::new();
        loop {
            let response = self.ask(index, get, &url).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status.is_redirection() {
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(too_many_redirects());
                }
                url = redirect(&url, response.headers())?;
                continue;
            }
            let origin = origin(&url)?;
            let challenge = challenge(response.headers());
            let asks = (origin, challenge == Some(Challenge::Basic));
            if status != StatusCode::UNAUTHORIZED || answered.contains(&asks) {
                let mut failure = Failure::status(&response, self.who(host, &url));
                failure.text += &beside(host, &url);
                return Err(failure);
            }
            let header = self.answer(host, &url, challenge).await?;
            self.remember_token(index, asks.0.clone(), header);
            answered.push(asks);
        }
    }

    async fn ask(&self, index: usize, get: &Get, url: &Uri) -> Result<Response<Incoming>, Failure> {
        let host = &self.hosts[index];
        let mut request = request(Method::GET, url, Bytes::new())?;
        let headers = request.headers_mut();
        // What is meant for the host stays with the host.
        if host.is_at(url) {
            headers.extend(host.entry.header.clone());
        }
        if let Some(shown) = self.known_token(index, &origin(url)?) {
            headers.insert(AUTHORIZATION, shown);
        }
        if let Some(accept) = get.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if let Some(Range { start, end }) = &get.range {
            headers.insert(RANGE, header(&format!("bytes={start}-{}", end - 1))?);
        }
        self.send(host, request).await
    }

    /// `host` is the one that led to the request's.
    async fn send(
        &self,
        host: &Host,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let client = self.client(host, request.uri());
        let led = beside(host, request.uri());
        if let Some(shown) = self.proxies().authorization(request.uri()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, shown);
        }
        let limit = self.progress_timeout();
        match timeout(limit, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let mut failure = unreachable(&error);
                failure.text += &led;
                Err(failure)
            }
            Err(_) => {
                let text = format!("no answer within {}{led}", seconds(limit));
                Err(Failure::new(ErrorKind::RegistryUnavailable, text))
            }
        }
    }

    /// A token server's answer, also from where it redirects to; credentials stay with the server that they are for.
    async fn send_on(
        &self,
        host: &Host,
        first: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let may_follow = first.method() == Method::GET;
        let shown = first.headers().get(AUTHORIZATION).cloned();
        let server = first.uri().clone();
        let mut url = server.clone();
        let mut response = self.send(host, first).await?;
        let mut redirects = 0;
        while may_follow && response.status().is_redirection() {
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                return Err(too_many_redirects());
            }
            url = redirect(&url, response.headers())?;
            let mut next = request(Method::GET, &url, Bytes::new())?;
            if let Some(shown) = &shown
                && location::same_origin(&url, &server)
            {
                next.headers_mut().insert(AUTHORIZATION, shown.clone());
            }
            response = self.send(host, next).await?;
        }
        Ok(response)
    }

    /// Client for `url`: the host's own is for no other host, unless that is configured, too.
    fn client<'a>(&'a self, host: &'a Host, url: &Uri) -> &'a HttpClient {
        if host.is_at(url) {
            return &host.client;
        }
        let named = self.hosts.iter().find(|other| other.is_at(url));
        named.map_or(&host.elsewhere, |other| &other.client)
    }

    /// The Authorization header that the challenge of `url` asks for. A host that `host` redirects to gets no credentials, only
    /// the token that anyone would get.
    async fn answer(
        &self,
        host: &Host,
        url: &Uri,
        challenge: Option<Challenge>,
    ) -> Result<HeaderValue, Failure> {
        let led = beside(host, url);
        let denied = |text: &str| Failure::new(ErrorKind::Unauthorized, format!("{text}{led}"));
        let Some(challenge) = challenge else {
            return Err(denied("401 Unauthorized without a challenge we can answer"));
        };
        let credential = host.is_at(url).then(|| self.credential(host)).flatten();
        match (challenge, credential) {
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
                let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
                let scope = said(&scope).unwrap_or_else(|| self.scope());
                let service = said(&service);
                let mut query = vec![("scope", scope.as_str())];
                query.extend(service.as_deref().map(|service| ("service", service)));
                let token = self.token((host, url), &realm, &query, credential).await?;
                secret(&format!("Bearer {token}"))
            }
        }
    }

    /// `asker` is the host that was asked, and the address that wants the token.
    async fn token(
        &self,
        asker: (&Host, &Uri),
        realm: &str,
        query: &[(&str, &str)],
        credential: Option<Credential>,
    ) -> Result<String, Failure> {
        let (host, asked) = asker;
        let denied = |text: String| Failure::new(ErrorKind::Unauthorized, text);
        let url =
            |query| auth::token_url(realm, asked, query).map_err(|text| denied(text.to_owned()));
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
        let response = self.send_on(host, request).await?;
        let status = response.status();
        if !status.is_success() {
            let mut failure = Failure::status(&response, self.who(host, asked));
            failure.text = format!("token server {server}: {}", failure.text);
            return Err(failure);
        }
        let body = Limited::new(response.into_body(), MAX_TOKEN).collect();
        let body = timeout(self.progress_timeout(), body).await;
        let Ok(Ok(body)) = body else {
            let text = format!("token server {server}: the answer broke off");
            return Err(Failure::new(ErrorKind::RegistryUnavailable, text).worth(3));
        };
        token_in(&body.to_bytes())
            .ok_or_else(|| denied(format!("token server {server}: the answer holds no token")))
    }
}

/// The token in a token server's answer. Some servers fill one field, some the other, some both.
///
/// Rule: Docker's token authentication specification, "Token Response Fields".
fn token_in(bytes: &[u8]) -> Option<String> {
    let answer = json::parse(bytes).ok()?;
    let answer = answer.object().ok()?;
    let field = |name| answer.text(name).ok().filter(|token| !token.is_empty());
    field("token").or_else(|| field("access_token"))
}

fn request(method: Method, url: &Uri, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    Request::builder()
        .method(method)
        .uri(url)
        .header(http::header::USER_AGENT, USER_AGENT)
        // A digest is of the bytes as they are, and so are ranges. Proxies compress for those that do not say so.
        .header(ACCEPT_ENCODING, "identity")
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

fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let lines = headers.get_all(http::header::WWW_AUTHENTICATE).into_iter();
    Challenge::parse(lines.filter_map(|line| line.to_str().ok()))
}

fn redirect(from: &Uri, headers: &HeaderMap) -> Result<Uri, Failure> {
    let refuse = |text: &str| Failure::new(ErrorKind::RegistryUnavailable, text);
    let location = headers.get(LOCATION);
    let location = location.ok_or_else(|| refuse("a redirect without a location"))?;
    let location = String::from_utf8_lossy(location.as_bytes());
    let target =
        location::resolve(from, &location).ok_or_else(|| refuse("a redirect to what is no URL"))?;
    match (from.scheme_str(), target.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) => Ok(target),
        _ => Err(refuse("a redirect away from https")),
    }
}

fn too_many_redirects() -> Failure {
    let text = format!("more than {MAX_REDIRECTS} redirects");
    Failure::new(ErrorKind::RegistryUnavailable, text)
}

fn origin(url: &Uri) -> Result<String, Failure> {
    location::origin(url)
        .ok_or_else(|| Failure::new(ErrorKind::Internal, format!("{url} names no host")))
}

/// Words for messages on where the host has led, if not to itself.
fn beside(host: &Host, url: &Uri) -> String {
    match (host.is_at(url), url.authority()) {
        (false, Some(other)) => format!(" (from {other}, where it led)"),
        _ => String::new(),
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
