//! The process between the shim and a further process in a container of an external runtime: its parent, once the runtime
//! has gone.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use corten_proto::shim::{Failure, FailureKind};
use corten_sys::process::{self, Child, SingleThreaded};

use super::{
    super::{Ends, program, terminal},
    console::Console,
    drop_streams, end_as, keep_only, keep_socket, monitor,
    runtime::{Call, Refusal, Runtime},
    take_process, wait_for,
};
use crate::failure::{Doing, Result};

/// What the shim hands to it.
#[derive(Debug)]
pub(super) struct ExecMonitor<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) number: u64,
    /// For the runtime's `--cgroup`.
    pub(super) cgroup: String,
    pub(super) args: &'a [Vec<u8>],
    /// The container's.
    pub(super) env: &'a [Vec<u8>],
}

impl ExecMonitor<'_> {
    /// Runs the process and ends as it does.
    pub(super) fn run(&self, report: OwnedFd, ends: Ends) -> ! {
        let ready = match ends {
            Ends::Streams(stdio) => keep_only(&report, stdio).map(|()| None),
            Ends::Terminal(socket) => keep_socket(&report, socket).map(Some),
        };
        let ended = match ready.and_then(|socket| self.exec(socket)) {
            Ok(process) => {
                drop(report);
                wait_for(&process).unwrap_or(monitor::FAILED)
            }
            Err(failure) => monitor::tell(&report, failure),
        };
        end_as(ended)
    }

    /// What tells of the terminal's kind where the container's environment does not. For crun one variable stands for all.
    fn kind(&self) -> Vec<Vec<u8>> {
        if program::names(self.env, b"TERM=") {
            return Vec::new();
        }
        let all = self.env.iter().map(Vec::as_slice).chain([terminal::KIND]);
        all.flat_map(|variable| [b"--env".to_vec(), variable.to_vec()])
            .collect()
    }

    /// With a terminal, if its master is to go over `socket`.
    fn exec(&self, socket: Option<OwnedFd>) -> Result<Child> {
        monitor::begin()?;
        let name = format!("exec-{}", self.number);
        let console = socket.as_ref();
        let console = console.map(|_| Console::listen(self.runtime, &name));
        let console = console.transpose()?;
        let pid_file = self.runtime.file(&format!("{name}.pid"));
        let mut words: Vec<Vec<u8>> = ["exec", "--detach", "--cgroup", &self.cgroup, "--pid-file"]
            .map(Into::into)
            .into();
        words.push(pid_file.clone());
        if let Some(console) = &console {
            words.push(b"--tty".into());
            words.extend(console.option());
            words.extend(self.kind());
        }
        words.push(self.runtime.id().into());
        words.extend_from_slice(self.args);
        let proof = SingleThreaded::verify().doing("clone", "the runtime")?;
        let ran = self.runtime.run(
            &proof,
            &Call {
                name: &name,
                words: &words,
                cgroup: None,
            },
        );
        drop_streams()?;
        match ran {
            Ok(_) => {
                let path = String::from_utf8_lossy(&pid_file).into_owned();
                let started = take_process(Path::new(&path))?;
                if let (Some(socket), Some(console)) = (socket, console) {
                    let sent = console
                        .accept()
                        .and_then(|master| terminal::send(&socket, &master));
                    // Nobody has its terminal.
                    sent.inspect_err(|_| drop(process::kill(started.pidfd.as_fd())))?;
                }
                Ok(started)
            }
            Err(Refusal::NotRun(failure)) => Err(failure),
            Err(Refusal::Refused(words)) => Err(Failure {
                kind: FailureKind::FailureExec.into(),
                operation: "exec".into(),
                subject: String::from_utf8_lossy(&self.args[0]).into_owned(),
                hint: words,
                ..Failure::default()
            }),
        }
    }
}
