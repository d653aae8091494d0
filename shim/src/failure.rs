//! Failures as they go over the socket: what was done, to what, errno.

use std::{fmt::Display, io};

use corten_proto::shim::{Failure, FailureKind, Mount};
use nix::libc;

/// Hint for EAGAIN from clone(2).
const NO_PROCESSES: &str =
    "a limit of processes is reached: the container's own (pids), its pod's or the host's";
/// Hint for EMFILE and ENFILE.
const NO_DESCRIPTORS: &str = "the container's shim or the host has no descriptor left";

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Says what was done to what.
pub(crate) trait Doing<T> {
    fn doing(self, operation: &str, subject: impl Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, operation: &str, subject: impl Display) -> Result<T> {
        self.map_err(|error| {
            failure(
                FailureKind::FailureInternal,
                operation,
                subject,
                &error.into(),
            )
        })
    }
}

/// A failed system call, or an error of ours.
pub(crate) fn failure(
    kind: FailureKind,
    operation: &str,
    subject: impl Display,
    error: &io::Error,
) -> Failure {
    let errno = error.raw_os_error().unwrap_or_default();
    Failure {
        kind: kind.into(),
        operation: operation.to_owned(),
        subject: subject.to_string(),
        errno,
        hint: match errno {
            0 => error.to_string(),
            libc::EAGAIN if operation.starts_with("clone") => NO_PROCESSES.to_owned(),
            libc::EMFILE | libc::ENFILE => NO_DESCRIPTORS.to_owned(),
            _ => String::new(),
        },
        field: String::new(),
    }
}

/// Data of the request that cannot be used.
pub(crate) fn invalid(operation: &str, subject: impl Display, hint: impl Display) -> Failure {
    Failure {
        kind: FailureKind::FailureInvalid.into(),
        operation: operation.to_owned(),
        subject: subject.to_string(),
        errno: 0,
        hint: hint.to_string(),
        field: String::new(),
    }
}

/// Names the request's field, or its `part`, where the fault is the request's.
pub(crate) fn of_mount(mount: &Mount, part: &str) -> impl Fn(Failure) -> Failure {
    move |failure| {
        let is_named = !failure.field.is_empty() || mount.field.is_empty();
        if is_named || failure.kind() != FailureKind::FailureInvalid {
            return failure;
        }
        let field = match part {
            "" => mount.field.clone(),
            part => format!("{}.{part}", mount.field),
        };
        Failure { field, ..failure }
    }
}

/// Not possible in the present phase.
pub(crate) fn phase(operation: &str, hint: &str) -> Failure {
    Failure {
        kind: FailureKind::FailurePhase.into(),
        operation: operation.to_owned(),
        hint: hint.to_owned(),
        ..Failure::default()
    }
}
