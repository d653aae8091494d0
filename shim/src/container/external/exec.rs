//! The process between the shim and a further process in a container of an external runtime: its parent, once the runtime
//! has gone.

use std::{os::fd::OwnedFd, path::Path};

use corten_proto::shim::{Failure, FailureKind};
use corten_sys::process::SingleThreaded;

use super::{
    super::Stdio,
    drop_streams, end_as, keep_only, monitor,
    runtime::{Call, Refusal, Runtime},
    take_pid, wait_for,
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
}

impl ExecMonitor<'_> {
    /// Runs the process and ends as it does.
    pub(super) fn run(&self, report: OwnedFd, stdio: Stdio) -> ! {
        let ended = match keep_only(&report, stdio).and_then(|()| self.exec()) {
            Ok(pid) => {
                drop(report);
                wait_for(pid).unwrap_or(monitor::FAILED)
            }
            Err(failure) => monitor::tell(&report, failure),
        };
        end_as(ended)
    }

    fn exec(&self) -> Result<i32> {
        monitor::begin()?;
        let name = format!("exec-{}", self.number);
        let pid_file = self.runtime.file(&format!("{name}.pid"));
        let mut words: Vec<Vec<u8>> = ["exec", "--detach", "--cgroup", &self.cgroup, "--pid-file"]
            .map(Into::into)
            .into();
        words.push(pid_file.clone());
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
                take_pid(Path::new(&path))
            }
            Err(Refusal::NotRun(failure)) => Err(failure),
            Err(Refusal::Refused(words)) => Err(Failure {
                kind: FailureKind::FailureExec.into(),
                operation: "exec".into(),
                subject: String::from_utf8_lossy(&self.args[0]).into_owned(),
                errno: 0,
                hint: words,
            }),
        }
    }
}
