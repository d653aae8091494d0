//! What is to be done for those who come by a URL that an RPC has given.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use corten_proto::cri;

use crate::error::{Error, Result};

/// How long a URL is good for.
const LIFETIME: Duration = Duration::from_secs(60);
/// URLs that nobody has come by yet.
const MAX_WAITING: usize = 1000;

/// A checked request.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Exec(cri::ExecRequest),
    Attach(cri::AttachRequest),
    PortForward(cri::PortForwardRequest),
}

impl Request {
    /// The first part of the URL's path.
    fn verb(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Tokens {
    /// Scheme, host and port.
    base: String,
    waiting: Mutex<HashMap<String, (Instant, Request)>>,
}

impl Tokens {
    /// `base`: where the server listens, as in `http://127.0.0.1:1234`.
    pub(crate) fn new(base: String) -> Self {
        Self {
            base,
            waiting: Mutex::default(),
        }
    }

    /// A URL that is good for one session, which has to begin within a minute.
    ///
    /// # Errors
    /// Where too many have been given of which nobody has made use.
    pub(crate) fn url(&self, request: Request) -> Result<String> {
        let token = random()?;
        let path = format!("/{}/{token}", request.verb());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            waiting.retain(|_, (given, _)| given.elapsed() < LIFETIME);
        }
        if waiting.len() >= MAX_WAITING {
            return Err(Error::TooMany {
                what: "URLs for streaming that nobody has used yet",
                limit: MAX_WAITING,
            });
        }
        waiting.insert(path.clone(), (Instant::now(), request));
        Ok(format!("{}{path}", self.base))
    }

    /// What was asked for by the URL with this path. Once.
    pub(super) fn take(&self, path: &str) -> Option<Request> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (given, request) = waiting.remove(path)?;
        (given.elapsed() < LIFETIME).then_some(request)
    }
}

/// 128 bits that nobody guesses.
fn random() -> Result<String> {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    got.map_err(|errno| Error::Io {
        doing: "get random bytes".into(),
        source: errno.into(),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::PortForward(cri::PortForwardRequest::default())
    }

    #[test]
    fn a_url_is_good_once() {
        let tokens = Tokens::new("http://host:1".into());
        let url = tokens.url(request()).unwrap();
        let path = url.strip_prefix("http://host:1").unwrap();
        assert!(path.starts_with("/portforward/"));
        assert!(tokens.take("/portforward/").is_none());
        assert!(tokens.take(&path.replace("portforward", "exec")).is_none());
        assert!(tokens.take(path).is_some());
        assert!(tokens.take(path).is_none());
    }

    #[test]
    fn urls_that_nobody_uses_are_bounded_and_expire() {
        let tokens = Tokens::new(String::new());
        let first = tokens.url(request()).unwrap();
        for _ in 1..MAX_WAITING {
            tokens.url(request()).unwrap();
        }
        assert!(tokens.url(request()).is_err());
        for (given, _) in tokens.waiting.lock().unwrap().values_mut() {
            *given = given.checked_sub(LIFETIME).unwrap();
        }
        tokens.url(request()).unwrap();
        assert_eq!(tokens.waiting.lock().unwrap().len(), 1);
        assert!(tokens.take(&first).is_none());
    }
}
