//! The daemon's side of the shim: starting one, and talking to it (`proto/shim/v1/shim.proto`).

mod attach;
mod client;
mod exec;
mod frame;
mod launcher;
mod printed;
mod process;

use std::io;

pub(crate) use attach::attach;
pub(crate) use client::{Client, Command, ExecIo};
use corten_proto::shim::{Failure, FailureKind};
pub(crate) use exec::exec;
pub(crate) use launcher::Launcher;
use nix::errno::Errno;
pub(crate) use printed::{End, Printed};
pub(crate) use process::{OwnMounts, kill, kill_if, kill_init};
use tonic::Code;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("start the shim {binary}")]
    Spawn { binary: String, source: io::Error },
    #[error("corten-shim")]
    Helper(#[source] io::Error),
    #[error("talk to the shim")]
    Connection(#[source] io::Error),
    #[error("the shim is gone")]
    Gone,
    #[error("the shim sent no answer in {seconds} s")]
    Silent { seconds: u64 },
    #[error("the shim answered {what} with something else")]
    Confused { what: &'static str },
    #[error("{}", describe(.0))]
    Refused(Box<Failure>),
}

impl Error {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Refused(failure) => match failure.kind() {
                FailureKind::FailureInvalid => Code::InvalidArgument,
                FailureKind::FailurePhase => Code::FailedPrecondition,
                // The kubelet shows the text and tries again; runc's users know `Unknown` for it.
                FailureKind::FailureExec => Code::Unknown,
                // As the kubelet wants it.
                FailureKind::FailureImageVolume => Code::Unknown,
                FailureKind::FailureInternal if is_exhausted(failure) => Code::ResourceExhausted,
                FailureKind::FailureInternal => Code::Internal,
            },
            Self::Silent { .. } => Code::DeadlineExceeded,
            Self::Gone | Self::Connection(_) => Code::Unavailable,
            Self::Spawn { .. } | Self::Helper(_) | Self::Confused { .. } => Code::Internal,
        }
    }

    /// Whether there may be no container any more.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Gone | Self::Connection(_) => true,
            Self::Refused(failure) => failure.kind() == FailureKind::FailurePhase,
            Self::Spawn { .. } | Self::Helper(_) | Self::Silent { .. } | Self::Confused { .. } => {
                false
            }
        }
    }

    /// The failure that the shim told, if it told one.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) => Some(failure.as_ref()),
            _ => None,
        }
    }
}

/// Whether there were no more processes or descriptors to be had. Other calls than clone(2) give EAGAIN for other reasons.
fn is_exhausted(failure: &Failure) -> bool {
    match Errno::from_raw(failure.errno) {
        Errno::EAGAIN => failure.operation.starts_with("clone"),
        errno => matches!(errno, Errno::EMFILE | Errno::ENFILE),
    }
}

/// "exec /bin/nothing: No such file or directory (os error 2): ..."
fn describe(failure: &Failure) -> String {
    let mut text = failure.operation.clone();
    if !failure.subject.is_empty() {
        text = format!("{text} {:?}", failure.subject);
    }
    if failure.errno != 0 {
        text = format!("{text}: {}", io::Error::from_raw_os_error(failure.errno));
    }
    if !failure.hint.is_empty() {
        text = format!("{text}: {}", failure.hint);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_one_sentence() {
        let failure = Failure {
            kind: FailureKind::FailureExec.into(),
            operation: "exec".into(),
            subject: "/bin/nothing".into(),
            errno: 2,
            ..Failure::default()
        };
        assert_eq!(
            describe(&failure),
            "exec \"/bin/nothing\": No such file or directory (os error 2)"
        );
    }
}
