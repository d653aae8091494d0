//! One pull's view of a registry: its hosts are asked in turn, each with retries, and what every
//! one of them said is kept for the error.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Uri};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use tokio::time::{sleep, timeout};

use super::auth::{Auth, Credential};
use super::exchange::{Failure, Get, seconds};
use super::proxy::Proxies;
use super::transport::{Host, Outside};
use crate::digest::{Algorithm, Digest};
use crate::error::{Attempt, Error, ErrorKind, brief};
use crate::manifest::{ACCEPT, Blob, MAX_DOCUMENT};
use crate::reference::{Reference, Version};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Hosts, credentials and tokens for one pull.
#[derive(Debug)]
pub(crate) struct Session {
    reference: Reference,
    pub(super) hosts: Vec<Host>,
    auth: Option<Auth>,
    /// Authorization headers as challenges asked for them: by the host that was asked, and by whom that led to.
    tokens: Mutex<HashMap<(usize, String), HeaderValue>>,
    shared: Shared,
}

/// Settings that all sessions share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// `None` where no host but a registry's is asked.
    pub(super) outside: Option<Outside>,
    pub(super) proxies: Proxies,
    pub(super) progress_timeout: Duration,
}

impl Session {
    pub(super) fn new(
        reference: Reference,
        hosts: Vec<Host>,
        auth: Option<Auth>,
        shared: Shared,
    ) -> Self {
        Self {
            reference,
            hosts,
            auth,
            tokens: Mutex::default(),
            shared,
        }
    }

    /// Session without credentials for a blob that lies at `url`, if that is allowed.
    pub(super) fn outside(&self, url: &Uri) -> Option<Self> {
        let host = self.shared.outside.as_ref()?.host(url)?;
        let (reference, shared) = (self.reference.clone(), self.shared.clone());
        Some(Self::new(reference, vec![host], None, shared))
    }

    pub(super) fn proxies(&self) -> &Proxies {
        &self.shared.proxies
    }

    pub(super) fn progress_timeout(&self) -> Duration {
        self.shared.progress_timeout
    }

    pub(super) fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Shape: `localhost:5000`.
    pub(crate) fn registry(&self) -> &str {
        self.reference.registry()
    }

    /// The document that the reference itself names.
    pub(crate) async fn top(&self) -> Result<(Digest, Bytes), Error> {
        let (name, want) = match self.reference.version() {
            Version::Tag(tag) => (tag.clone(), None),
            Version::Digest(digest) => (digest.to_string(), Some(*digest)),
        };
        let get = Get {
            path: format!("manifests/{name}"),
            accept: Some(ACCEPT),
            range: None,
        };
        let what = format!("manifest of {}", self.reference);
        self.document(&what, &get, want, MAX_DOCUMENT).await
    }

    /// A manifest that an index lists.
    pub(crate) async fn manifest(&self, entry: &Blob) -> Result<Bytes, Error> {
        let get = Get {
            path: format!("manifests/{}", entry.digest),
            accept: Some(ACCEPT),
            range: None,
        };
        let what = format!("manifest {} of {}", entry.digest, self.reference);
        let (_, bytes) = self
            .document(&what, &get, Some(entry.digest), MAX_DOCUMENT)
            .await?;
        check_size(&what, entry, &bytes)?;
        Ok(bytes)
    }

    /// The document of another tag in the image's repository, if there is one.
    pub(crate) async fn tag(&self, tag: &str) -> Result<Option<Bytes>, Error> {
        let what = format!("tag {tag} beside {}", self.reference);
        self.optional(&what, format!("manifests/{tag}")).await
    }

    /// The index of manifests that refer to `digest`, if the registry keeps such.
    ///
    /// Rule: OCI distribution-spec v1.1, "Listing Referrers".
    pub(crate) async fn referrers(&self, digest: &Digest) -> Result<Option<Bytes>, Error> {
        let what = format!("referrers of {}", self.reference);
        self.optional(&what, format!("referrers/{digest}")).await
    }

    async fn optional(&self, what: &str, path: String) -> Result<Option<Bytes>, Error> {
        let get = Get {
            path,
            accept: Some(ACCEPT),
            range: None,
        };
        match self.document(what, &get, None, MAX_DOCUMENT).await {
            Ok((_, bytes)) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A blob small enough for memory. `kind` is what it is: `config`.
    pub(crate) async fn small_blob(
        &self,
        kind: &str,
        blob: &Blob,
        limit: u64,
    ) -> Result<Bytes, Error> {
        let what = format!("{kind} {} of {}", blob.digest, self.reference);
        if blob.size > limit {
            let reason = format!("{} bytes, the limit is {limit}", blob.size);
            return Err(Error::content(what, reason));
        }
        let get = Get {
            path: format!("blobs/{}", blob.digest),
            accept: None,
            range: None,
        };
        let (_, bytes) = self.document(&what, &get, Some(blob.digest), limit).await?;
        check_size(&what, blob, &bytes)?;
        Ok(bytes)
    }

    async fn document(
        &self,
        what: &str,
        get: &Get,
        want: Option<Digest>,
        limit: u64,
    ) -> Result<(Digest, Bytes), Error> {
        let mut attempts = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let capable = match want {
                Some(_) => host.entry.pull,
                None => host.entry.resolve,
            };
            if !capable {
                continue;
            }
            match self.document_patiently(index, get, limit).await {
                Ok(bytes) => {
                    let algorithm = want.map_or(Algorithm::Sha256, |want| want.algorithm());
                    let got = Digest::by(algorithm, &bytes);
                    match want {
                        Some(want) if want != got => {
                            let text = format!("it sent digest {got}, not {want}");
                            let failure = Failure::new(ErrorKind::DigestMismatch, text);
                            attempts.push(attempt(host, failure));
                        }
                        _ => return Ok((got, bytes)),
                    }
                }
                Err(failure) => attempts.push(attempt(host, failure)),
            }
        }
        Err(Error::Registry {
            what: what.to_owned(),
            attempts,
        })
    }

    async fn document_patiently(
        &self,
        index: usize,
        get: &Get,
        limit: u64,
    ) -> Result<Bytes, Failure> {
        let mut tries = 1;
        loop {
            match self.document_once(index, get, limit).await {
                Err(failure) if tries < failure.tries => pause(tries, &failure).await,
                Err(failure) => return Err(counted(failure, tries)),
                Ok(bytes) => return Ok(bytes),
            }
            tries += 1;
        }
    }

    async fn document_once(&self, index: usize, get: &Get, limit: u64) -> Result<Bytes, Failure> {
        let mut body = self.get(index, get).await?.into_body();
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next_chunk(&mut body).await? {
            bytes.extend_from_slice(&chunk);
            if u64::try_from(bytes.len()).is_ok_and(|len| len > limit) {
                let text = format!("the document is larger than {limit} bytes");
                return Err(Failure::new(ErrorKind::InvalidContent, text));
            }
        }
        Ok(bytes.into())
    }

    /// Waits for the network only: what the reader does with the bytes is not counted.
    pub(super) async fn next_chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = match timeout(self.progress_timeout(), body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    let text = format!("the transfer broke off: {error}");
                    return Err(Failure::new(ErrorKind::RegistryUnavailable, text).worth(3));
                }
                Err(_) => {
                    let text = format!("no byte within {}", seconds(self.progress_timeout()));
                    return Err(Failure::new(ErrorKind::Timeout, text));
                }
            };
            if let Ok(chunk) = frame.into_data() {
                return Ok(Some(chunk));
            }
        }
    }

    pub(super) fn url(&self, host: &Host, path: &str) -> Result<Uri, Failure> {
        if host.entry.is_exact {
            return Ok(host.entry.base.clone());
        }
        let base = host.entry.base.to_string();
        let base = base.trim_end_matches('/');
        let mut url = format!("{base}/{}/{path}", self.reference.repository());
        if !host.entry.is_server {
            // Mirrors of several registries tell them apart by this; containerd sends it too.
            url += &format!("?ns={}", self.reference.registry());
        }
        url.parse()
            .map_err(|error| Failure::new(ErrorKind::Internal, format!("{url}: {error}")))
    }

    pub(super) fn scope(&self) -> String {
        format!("repository:{}:pull", self.reference.repository())
    }

    pub(super) fn credential(&self, host: &Host) -> Option<Credential> {
        let authority = host.entry.base.authority()?.as_str();
        self.auth
            .as_ref()?
            .for_host(authority, host.entry.is_server, self.reference.registry())
    }

    /// Words for messages on whose credentials `url` refused.
    pub(super) fn who(&self, host: &Host, url: &Uri) -> &'static str {
        match (self.credential(host).is_some(), self.auth.is_some()) {
            _ if !host.is_at(url) => "anonymous: what it redirects to gets no credentials",
            (true, _) => "with the request's credentials",
            (false, true) => "anonymous: the request's credentials are for another host",
            (false, false) => "anonymous: the request had no credentials",
        }
    }

    pub(super) fn known_token(&self, host: usize, origin: &str) -> Option<HeaderValue> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(&(host, origin.to_owned())).cloned()
    }

    pub(super) fn remember_token(&self, host: usize, origin: String, header: HeaderValue) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert((host, origin), header);
    }
}

/// A descriptor without a size has none to keep, as for containerd.
fn check_size(what: &str, of: &Blob, bytes: &[u8]) -> Result<(), Error> {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if of.size == 0 || of.size == size {
        return Ok(());
    }
    let reason = format!("it has {size} bytes, its descriptor says {}", of.size);
    Err(Error::content(what, reason))
}

pub(super) async fn pause(tries: u32, failure: &Failure) {
    let backoff = FIRST_PAUSE * 2u32.saturating_pow(tries - 1).min(32);
    sleep(failure.retry_after.unwrap_or(backoff)).await;
}

pub(super) fn counted(mut failure: Failure, tries: u32) -> Failure {
    if tries > 1 {
        failure.text += &format!(" (tried {tries} times)");
    }
    failure
}

pub(super) fn attempt(host: &Host, failure: Failure) -> Attempt {
    let base = &host.entry.base;
    let authority = base.authority().map_or("", |authority| authority.as_str());
    Attempt {
        host: format!("{}://{authority}", base.scheme_str().unwrap_or("https")),
        outcome: brief(failure.text),
        kind: failure.kind,
    }
}
