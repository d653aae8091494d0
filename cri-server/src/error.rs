//! What can go wrong in the daemon, and the gRPC code of each.

use std::{fmt::Write, io, path::Path, sync::Arc, time::Duration};

use corten_proto::shim::{Failure, FailureKind};
use tonic::{Code, Status};

use crate::{shim, spec};

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A field of the request, by its path.
    #[error("{field}: {reason}")]
    Invalid { field: String, reason: String },
    #[error("{kind} {id:?} does not exist")]
    NotFound { kind: &'static str, id: String },
    #[error("{kind} id {id:?} fits more than one {kind}: give more digits")]
    Ambiguous { kind: &'static str, id: String },
    #[error("{kind} {name} is there already, with id {id}")]
    Exists {
        kind: &'static str,
        name: String,
        id: String,
    },
    /// Not possible in the object's present state.
    #[error("{subject} is {state}: {need}")]
    State {
        subject: String,
        state: &'static str,
        need: &'static str,
    },
    #[error("there are {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("{what} took longer than {limit:?}")]
    Timeout { what: String, limit: Duration },
    #[error("{doing}")]
    Io { doing: String, source: io::Error },
    /// A record on disk that cannot be used.
    #[error("{path}: {reason}")]
    Record { path: String, reason: String },
    /// An image that cannot be mounted as a volume.
    #[error("{field}: {reason}")]
    ImageVolume { field: String, reason: String },
    #[error("image {reference:?}")]
    Image {
        reference: String,
        source: corten_image::Error,
    },
    #[error("network of pod {pod}")]
    Network {
        pod: String,
        source: corten_cni::Error,
    },
    #[error("{doing}")]
    Shim { doing: String, source: shim::Error },
    /// Every step that could not be undone, with its cause.
    #[error("{}", failures.join("; "))]
    Undo { failures: Vec<String> },
    #[error("the operation ended without a result: this is a fault of corten, see its log")]
    Panicked,
    /// One failure that several callers of a joined operation get.
    #[error(transparent)]
    Shared(Arc<Error>),
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// Error of a shim that could not do its part, of the request's field where the shim knows which one is at fault.
    pub(crate) fn of_shim(doing: &str, source: shim::Error) -> Self {
        match source.failure() {
            Some(failure) if !failure.field.is_empty() => {
                Self::invalid(failure.field.clone(), source.to_string())
            }
            _ => Self::Shim {
                doing: doing.to_owned(),
                source,
            },
        }
    }

    pub(crate) fn not_found(kind: &'static str, id: &str) -> Self {
        Self::NotFound {
            kind,
            id: id.to_owned(),
        }
    }

    /// The code that the kubelet acts on.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } | Self::Ambiguous { .. } => Code::InvalidArgument,
            Self::NotFound { .. } => Code::NotFound,
            Self::Exists { .. } => Code::AlreadyExists,
            Self::State { .. } => Code::FailedPrecondition,
            Self::Timeout { .. } => Code::DeadlineExceeded,
            Self::TooMany { .. } => Code::ResourceExhausted,
            Self::ImageVolume { .. } => Code::Unknown,
            Self::Image { source, .. } => image_code(source.kind()),
            Self::Shim { source, .. } => source.code(),
            Self::Io { .. }
            | Self::Record { .. }
            | Self::Network { .. }
            | Self::Undo { .. }
            | Self::Panicked => Code::Internal,
            Self::Shared(error) => error.code(),
        }
    }

    /// See [`chain`].
    pub(crate) fn chain(&self) -> String {
        chain(self)
    }

    /// The kubelet's own word for the failure, which it looks for at the start of the text (cri-api, pkg/errors).
    fn prefix(&self) -> &'static str {
        match self {
            Self::Image { source, .. } => match source.kind() {
                corten_image::ErrorKind::RegistryUnavailable => "RegistryUnavailable: ",
                corten_image::ErrorKind::SignatureValidationFailed => "SignatureValidationFailed: ",
                _ => "",
            },
            Self::ImageVolume { .. } => IMAGE_VOLUME,
            Self::Shim { source, .. } => match source.failure().map(Failure::kind) {
                Some(FailureKind::FailureImageVolume) => IMAGE_VOLUME,
                _ => "",
            },
            Self::Shared(error) => error.prefix(),
            _ => "",
        }
    }
}

/// Looked for by the kubelet, as `RegistryUnavailable` is, in errors of the code `Unknown` only.
const IMAGE_VOLUME: &str = "ImageVolumeMountFailed: ";

/// The error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// The kubelet reads its own words (`RegistryUnavailable`, `SignatureValidationFailed`) only in errors of the code `Unknown`.
fn image_code(kind: corten_image::ErrorKind) -> Code {
    use corten_image::ErrorKind;
    match kind {
        ErrorKind::InvalidReference => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unauthorized => Code::PermissionDenied,
        ErrorKind::RegistryUnavailable | ErrorKind::SignatureValidationFailed => Code::Unknown,
        ErrorKind::Timeout => Code::DeadlineExceeded,
        ErrorKind::NoSpace => Code::ResourceExhausted,
        ErrorKind::DigestMismatch | ErrorKind::InvalidContent | ErrorKind::Unsupported => {
            Code::FailedPrecondition
        }
        ErrorKind::Internal => Code::Internal,
    }
}

impl From<spec::Invalid> for Error {
    fn from(invalid: spec::Invalid) -> Self {
        Self::Invalid {
            field: invalid.field,
            reason: invalid.reason,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), format!("{}{}", error.prefix(), error.chain()))
    }
}

/// Says what was done to which path.
pub(crate) trait At<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            doing: format!("{doing} {}", path.display()),
            source: source.into(),
        })
    }
}
