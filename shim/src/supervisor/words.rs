//! How a container has died, in words for ContainerStatus.message.

use std::io;

use corten_proto::shim::Failure;
use corten_sys::{cgroup::Oom, process::Ended};
use nix::libc;

/// What is known of an end besides its code.
#[derive(Debug)]
pub(super) struct Circumstances<'a> {
    /// The container's own.
    pub(super) cgroup: &'a str,
    pub(super) oom: Option<&'a Oom>,
    pub(super) has_filter: bool,
    /// The kill at the end of a stop, or of a start that was given up, was ours.
    pub(super) was_killed: bool,
}

/// Empty for an end that its code says all of.
pub(super) fn describe(ended: Ended, known: &Circumstances<'_>) -> String {
    let signal = match ended {
        Ended::Exited(_) => None,
        Ended::Killed(signal) => Some(killed(signal, known)),
    };
    let oom = known.oom.map(|oom| out_of_memory(oom, known.cgroup));
    let parts: Vec<_> = signal.into_iter().chain(oom).collect();
    parts.join("; ")
}

fn killed(signal: i32, known: &Circumstances<'_>) -> String {
    let why = match signal {
        libc::SIGSYS if known.has_filter => {
            ": a system call that the seccomp profile does not allow"
        }
        libc::SIGKILL if known.was_killed => ": its time to stop was over",
        _ => "",
    };
    format!("killed by signal {signal} ({}){why}", name(signal))
}

fn name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(signal) => signal.as_str().to_owned(),
        // What POSIX leaves to applications, counted as kill -l does.
        Err(_) => format!("SIGRTMIN+{}", signal - libc::SIGRTMIN()),
    }
}

/// Whose limit, how large, and how many processes.
fn out_of_memory(oom: &Oom, own: &str) -> String {
    let processes = match oom.kills {
        1 => "1 process".to_owned(),
        kills => format!("{kills} processes"),
    };
    let limit = match &oom.limit {
        None => "the node had no memory left".to_owned(),
        Some(limit) if limit.cgroup == own => {
            format!(
                "the container's memory limit of {} bytes was reached",
                limit.bytes
            )
        }
        Some(limit) => format!(
            "the memory limit of cgroup {}, {} bytes, was reached",
            limit.cgroup, limit.bytes
        ),
    };
    format!("out of memory: the kernel killed {processes}, since {limit}")
}

/// Of a program that could not be run.
pub(super) fn why_not_run(failure: &Failure) -> String {
    let mut message = failure.operation.clone();
    if !failure.subject.is_empty() {
        message = format!("{message} {:?}", failure.subject);
    }
    if failure.errno != 0 {
        let error = io::Error::from_raw_os_error(failure.errno);
        message = format!("{message}: {error}");
    }
    if !failure.hint.is_empty() {
        message = format!("{message}: {}", failure.hint);
    }
    message
}

#[cfg(test)]
mod tests {
    use corten_sys::cgroup::MemoryLimit;

    use super::*;

    const NOTHING: Circumstances<'_> = Circumstances {
        cgroup: "/pod/c",
        oom: None,
        has_filter: false,
        was_killed: false,
    };

    #[test]
    fn signals_are_named_and_plain_exits_are_not_explained() {
        assert_eq!(describe(Ended::Exited(3), &NOTHING), "");
        let killed = |signal, known: &Circumstances<'_>| describe(Ended::Killed(signal), known);
        assert_eq!(killed(11, &NOTHING), "killed by signal 11 (SIGSEGV)");
        assert_eq!(
            killed(libc::SIGRTMIN() + 3, &NOTHING),
            "killed by signal 37 (SIGRTMIN+3)"
        );
        let filtered = Circumstances {
            has_filter: true,
            ..NOTHING
        };
        assert!(killed(31, &filtered).contains("SIGSYS): a system call that the seccomp"));
        assert_eq!(killed(31, &NOTHING), "killed by signal 31 (SIGSYS)");
        let stopped = Circumstances {
            was_killed: true,
            ..NOTHING
        };
        assert!(killed(9, &stopped).ends_with("its time to stop was over"));
    }

    #[test]
    fn the_limit_that_was_reached_is_named() {
        let oom = |kills, limit: Option<&str>| Oom {
            kills,
            limit: limit.map(|cgroup| MemoryLimit {
                cgroup: cgroup.into(),
                bytes: 4096,
            }),
        };
        for (oom, want) in [
            (
                oom(1, Some("/pod/c")),
                "killed 1 process, since the container's memory limit of 4096 bytes",
            ),
            (
                oom(2, Some("/pod")),
                "killed 2 processes, since the memory limit of cgroup /pod, 4096 bytes",
            ),
            (
                oom(1, None),
                "killed 1 process, since the node had no memory left",
            ),
        ] {
            let known = Circumstances {
                oom: Some(&oom),
                ..NOTHING
            };
            let message = describe(Ended::Exited(0), &known);
            assert!(message.contains(want), "{message}");
        }
    }
}
