//! The command line that runc has made and crun and youki have taken over, and what a runtime says of itself.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use corten_proto::{
    layout,
    shim::{Failure, FailureKind, Oci, Plan},
};
use corten_sys::{
    prctl,
    process::{self, Child, CloneFlags, Cloned, Ended, SingleThreaded},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{chdir, setsid},
};

use super::super::{
    child,
    program::Program,
    report::{self, Teller},
};
use crate::failure::{Doing, Result, invalid};

/// Of a runtime's log, from its end. Bytes.
const MAX_LOG: i64 = 16 << 10;
/// Runtimes look for helpers such as newuidmap.
const PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A runtime, and the container that it runs.
#[derive(Debug)]
pub(super) struct Runtime {
    oci: Oci,
    id: String,
    state_dir: PathBuf,
}

impl Runtime {
    pub(super) fn new(oci: Oci, plan: &Plan) -> Result<Self> {
        // Told now, not when it is run.
        let found = fs::metadata(&oci.runtime).doing("open the runtime", &oci.runtime)?;
        if !found.is_file() {
            return Err(invalid(
                "open the runtime",
                &oci.runtime,
                "it is not a file",
            ));
        }
        Ok(Self {
            oci,
            id: plan.container_id.clone(),
            state_dir: PathBuf::from(&plan.state_dir),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bundle(&self) -> PathBuf {
        self.state_dir.join(layout::BUNDLE)
    }

    /// The file of this name in the bundle, as the runtime takes it.
    pub(super) fn file(&self, name: &str) -> Vec<u8> {
        self.bundle()
            .join(name)
            .into_os_string()
            .into_encoded_bytes()
    }

    /// Runs it to its end. What it has to say is the failure.
    pub(super) fn run(&self, proof: &SingleThreaded, call: &Call<'_>) -> Result<(), Refusal> {
        let child = self.spawn(proof, call).map_err(Refusal::NotRun)?;
        let ended = process::wait(child.pidfd.as_fd())
            .doing("wait for", &self.oci.runtime)
            .map_err(Refusal::NotRun)?;
        let log = self.log(call.name);
        let said = last_words(&log);
        let _ = fs::remove_file(log);
        match ended {
            Ended::Exited(0) => Ok(()),
            Ended::Exited(code) if said.is_empty() => {
                Err(Refusal::Refused(format!("it has exited with {code}")))
            }
            Ended::Exited(_) => Err(Refusal::Refused(said)),
            Ended::Killed(signal) => Err(Refusal::Refused(format!(
                "it was killed by signal {signal}"
            ))),
        }
    }

    /// Starts it with the caller's standard streams, in its bundle.
    pub(super) fn spawn(&self, proof: &SingleThreaded, call: &Call<'_>) -> Result<Child> {
        let program = self.program(call)?;
        let (mut ours, theirs) = report::of_init()?;
        match process::clone(proof, CloneFlags::empty(), call.cgroup)
            .doing("clone3", "the runtime")?
        {
            Cloned::Child => {
                drop(ours);
                child::run(&theirs, || match self.prepare(&theirs) {
                    Ok(()) => self.not_run(program.execute()),
                    Err(failure) => failure,
                })
            }
            Cloned::Parent(child) => {
                drop(theirs);
                // Its end is that of execve.
                let readable = poll(&mut [PollFd::new(&ours, PollFlags::IN)], None)
                    .doing("wait for", &self.oci.runtime);
                match readable.and_then(|_| ours.read()) {
                    Ok(_) => Ok(child),
                    Err(failure) => {
                        let _ = process::wait(child.pidfd.as_fd());
                        Err(failure)
                    }
                }
            }
        }
    }

    fn prepare(&self, report: &Teller) -> Result<()> {
        prctl::end_with_parent().doing("prctl", "PR_SET_PDEATHSIG")?;
        process::reset_signals().doing("reset", "signals")?;
        setsid().doing("setsid", "process")?;
        // So that sockets have short names.
        chdir(self.bundle()).doing("enter", self.bundle().display())?;
        report.close_others().doing("close_range", "descriptors")
    }

    fn program(&self, call: &Call<'_>) -> Result<Program> {
        let mut args = vec![self.oci.runtime.clone().into_bytes()];
        args.extend(self.oci.args.iter().map(|arg| arg.clone().into_bytes()));
        let root = self.state_dir.join(layout::RUNTIME);
        for (option, path) in [("--root", &root), ("--log", &self.log(call.name))] {
            args.push(option.into());
            args.push(path.as_os_str().as_bytes().to_vec());
        }
        args.extend_from_slice(call.words);
        Program::new(&args, &[PATH.to_vec(), b"HOME=/".to_vec()], &[])
    }

    fn log(&self, name: &str) -> PathBuf {
        self.bundle().join(format!("{name}.log"))
    }

    fn not_run(&self, failure: Failure) -> Failure {
        Failure {
            kind: FailureKind::FailureInternal.into(),
            operation: "run the runtime".into(),
            subject: self.oci.runtime.clone(),
            hint: String::new(),
            ..failure
        }
    }
}

/// One command of a runtime.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// What its log is named after.
    pub(super) name: &'a str,
    /// What follows the global options.
    pub(super) words: &'a [Vec<u8>],
    /// The v2 cgroup that it is born into; otherwise the caller's.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
}

/// Why a runtime did not do what it was to do.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It was not even run.
    NotRun(Failure),
    /// In its own words.
    Refused(String),
}

/// The message of the last line of a log: of logrus's text (`... msg="..."`), or the line.
fn last_words(path: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.seek(SeekFrom::End(-MAX_LOG));
        let _ = file.read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.map(message).unwrap_or_default()
}

fn message(line: &str) -> String {
    match line.split_once(" msg=\"") {
        Some((_, message)) => {
            let message = message.trim_end().trim_end_matches('"');
            message.replace("\\\"", "\"").replace("\\\\", "\\")
        }
        None => line.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_words_are_found_in_its_log() {
        let line = r#"time="2026-11-24T09:40:38Z" level=error msg="exec failed: exec: \"nope\": not found""#;
        assert_eq!(message(line), "exec failed: exec: \"nope\": not found");
        assert_eq!(
            message("2026-11-24T09:40:38.1Z: error opening file\n"),
            "2026-11-24T09:40:38.1Z: error opening file"
        );
        assert_eq!(last_words(Path::new("/nonexistent")), "");
    }
}
