//! What can go wrong, and what the caller may conclude from it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::digest::Digest;

/// Most of a stranger's text that an error keeps: documents, headers and names may have megabytes where a word is meant, and
/// errors go to logs, events and the status of pods. Unit: characters.
const MAX_FOREIGN: usize = 1000;

/// Every failure of the image service. The text is one line; causes follow by `source()`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "image reference {reference:?}: {reason}; write [registry/]name[:tag] or name@sha256:..."
    )]
    Reference {
        reference: String,
        reason: &'static str,
    },
    #[error("{what}: {}", trail(.attempts))]
    Registry {
        what: String,
        attempts: Vec<Attempt>,
    },
    #[error(
        "{subject} has digest {got}, its descriptor says {want}; pull again or ask the registry's owner"
    )]
    Digest {
        subject: String,
        want: String,
        got: String,
    },
    #[error("{subject}: {reason}")]
    Content { subject: String, reason: String },
    #[error("layer {layer}, entry {entry:?}: {reason}")]
    Entry {
        layer: String,
        entry: String,
        reason: String,
        source: Option<io::Error>,
    },
    #[error("{subject}: {reason}")]
    Unsupported { subject: String, reason: String },
    #[error("image {0:?} is not on this node; pull or load it first")]
    NotHere(String),
    #[error("image {image}: {reason}")]
    Policy { image: String, reason: String },
    #[error("hosts file {}: {reason}", path.display())]
    HostsFile { path: PathBuf, reason: String },
    #[error("{op} {}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{op} in the image database")]
    Records {
        op: &'static str,
        source: Box<redb::Error>,
    },
    #[error("{0} stopped before it was done")]
    Stopped(&'static str),
}

/// The classes of failure a caller can react to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    InvalidReference,
    NotFound,
    Unauthorized,
    /// No registry answered: refused, timed out, or in trouble (5xx).
    RegistryUnavailable,
    DigestMismatch,
    /// The policy does not let the image in.
    SignatureValidationFailed,
    InvalidContent,
    Unsupported,
    /// A transfer began and then made no progress.
    Timeout,
    NoSpace,
    Internal,
}

/// One registry host that was asked, and what came of it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Shape: `https://mirror.example:5000`.
    pub host: String,
    pub outcome: String,
    pub kind: ErrorKind,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference { .. } => ErrorKind::InvalidReference,
            // The last host is the registry itself, or the operator's last resort: its word counts.
            Self::Registry { attempts, .. } => attempts
                .last()
                .map_or(ErrorKind::RegistryUnavailable, |attempt| attempt.kind),
            Self::NotHere(_) => ErrorKind::NotFound,
            Self::Policy { .. } => ErrorKind::SignatureValidationFailed,
            Self::Digest { .. } => ErrorKind::DigestMismatch,
            Self::Content { .. } => ErrorKind::InvalidContent,
            Self::Entry { source, .. } => match source {
                Some(source) if is_no_space(source) => ErrorKind::NoSpace,
                _ => ErrorKind::InvalidContent,
            },
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Io { source, .. } if is_no_space(source) => ErrorKind::NoSpace,
            Self::Records { source, .. } => match source.as_ref() {
                redb::Error::Io(source) if is_no_space(source) => ErrorKind::NoSpace,
                _ => ErrorKind::Internal,
            },
            Self::Io { .. } | Self::HostsFile { .. } | Self::Stopped(_) => ErrorKind::Internal,
        }
    }

    pub(crate) fn content(subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::Content {
            subject: subject.to_string(),
            reason: brief(reason.to_string()),
        }
    }

    pub(crate) fn unsupported(subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::Unsupported {
            subject: subject.to_string(),
            reason: brief(reason.to_string()),
        }
    }

    pub(crate) fn digest(subject: impl fmt::Display, want: &Digest, got: &Digest) -> Self {
        Self::Digest {
            subject: subject.to_string(),
            want: want.to_string(),
            got: got.to_string(),
        }
    }
}

/// The text, or its beginning where it is too long.
pub(crate) fn brief(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_FOREIGN) {
        text.truncate(end);
        text += "...";
    }
    text
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn trail(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "no configured registry host may serve it; see the capabilities in hosts.toml"
            .to_owned();
    }
    let lines: Vec<_> = attempts
        .iter()
        .map(|attempt| format!("{}: {}", attempt.host, attempt.outcome))
        .collect();
    lines.join("; ")
}

/// Names the path that a file operation failed on.
pub(crate) trait At<T> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            op,
            path: path.into(),
            source: source.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_host_decides_and_every_host_is_named() {
        let attempt = |host: &str, outcome: &str, kind| Attempt {
            host: host.to_owned(),
            outcome: outcome.to_owned(),
            kind,
        };
        let error = Error::Registry {
            what: "manifest docker.io/library/x:latest".to_owned(),
            attempts: vec![
                attempt("http://mirror", "503", ErrorKind::RegistryUnavailable),
                attempt("https://registry-1.docker.io", "404", ErrorKind::NotFound),
            ],
        };
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            "manifest docker.io/library/x:latest: http://mirror: 503; https://registry-1.docker.io: 404"
        );
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full: Result<(), Error> =
            Err(io::Error::from(io::ErrorKind::StorageFull)).at("write", "/x");
        assert_eq!(full.unwrap_err().kind(), ErrorKind::NoSpace);
    }
}
