//! Further processes in the container: started, timed, answered.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use corten_proto::shim::{self, ExecDone, Failure, Phase, reply::Result as Answer};
use corten_sys::process;

use super::{Supervisor, Waiting};
use crate::{
    container::{self, Execed, Stdio, Told},
    failure::{Doing, Result, invalid, phase},
    note::note,
    poll::{Source, timer},
};

#[derive(Debug)]
pub(super) struct Exec {
    process: Execed,
    waiting: Waiting,
    /// `None` where it may run for ever.
    deadline: Option<OwnedFd>,
    timed_out: bool,
}

impl Supervisor {
    /// Runs the command; its end is the answer.
    pub(super) fn exec(&mut self, waiting: Waiting, request: shim::Exec) -> Result<()> {
        // Always taken, so that the next request finds its own.
        let stdio = self.take_stdio(waiting.connection, &request);
        if self.phase != Phase::Running {
            return Err(phase("exec", "the container does not run"));
        }
        if request.args.is_empty() {
            return Err(invalid("exec", "args", "is empty"));
        }
        let Some(container) = &mut self.container else {
            return Err(phase("exec", "the container does not run"));
        };
        let process = container::exec(container, request.args, stdio?)?;
        let number = self.next;
        self.next += 1;
        let watched = self
            .events
            .add(&process.child.pidfd, Source::Exec(number))
            .doing("watch", "the exec");
        let deadline = match request.timeout_ms {
            0 => Ok(None),
            limit => timer(Duration::from_millis(limit))
                .map(Some)
                .doing("set the deadline of", "the exec"),
        };
        match (watched, deadline) {
            (Ok(()), Ok(deadline)) => {
                if let Some(timer) = &deadline {
                    self.events
                        .add(timer, Source::ExecDeadline(number))
                        .doing("watch", "the exec's deadline")?;
                }
                self.execs.insert(
                    number,
                    Exec {
                        process,
                        waiting,
                        deadline,
                        timed_out: false,
                    },
                );
                Ok(())
            }
            (Err(failure), _) | (_, Err(failure)) => {
                let _ = process.kill();
                let _ = process::wait(process.child.pidfd.as_fd());
                process.remove_cgroup();
                Err(failure)
            }
        }
    }

    /// The descriptors that the request names, in their order; output that nobody wants goes to /dev/null.
    fn take_stdio(&mut self, number: u64, request: &shim::Exec) -> Result<Stdio> {
        let mut take = |named: bool| -> Result<Option<OwnedFd>> {
            let connection = self.connections.get_mut(&number);
            match connection.and_then(|connection| if named { connection.take_fd() } else { None })
            {
                None if named => Err(invalid(
                    "exec",
                    "descriptors",
                    "fewer came than the request names",
                )),
                fd => Ok(fd),
            }
        };
        let (stdin, stdout, stderr) = (
            take(request.stdin)?,
            take(request.stdout)?,
            take(request.stderr)?,
        );
        let null = || {
            let file = std::fs::OpenOptions::new().write(true).open("/dev/null");
            file.map(OwnedFd::from).doing("open", "/dev/null")
        };
        Ok(Stdio {
            stdin,
            stdout: stdout.map_or_else(null, Ok)?,
            stderr: stderr.map_or_else(null, Ok)?,
        })
    }

    /// The command's own process has ended; what it left in the background runs on.
    pub(super) fn exec_ended(&mut self, number: u64) {
        let Some(exec) = self.execs.get(&number) else {
            return;
        };
        let Ok(Some(ended)) = process::try_wait(exec.process.child.pidfd.as_fd()) else {
            return;
        };
        let Some(mut exec) = self.execs.remove(&number) else {
            return;
        };
        if let Some(timer) = &exec.deadline {
            self.events.remove(timer);
        }
        let answer = match exec.process.report.read() {
            Err(failure) => Answer::Failure(failure),
            Ok(Told::End | Told::Created(_)) => Answer::Exec(ExecDone {
                exit_code: ended.code(),
                timed_out: exec.timed_out,
            }),
        };
        exec.process.remove_cgroup();
        self.reply(exec.waiting, answer);
    }

    pub(super) fn exec_is_over(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else {
            return;
        };
        exec.timed_out = true;
        if let Some(timer) = exec.deadline.take() {
            self.events.remove(&timer);
        }
        if let Err(error) = exec.process.kill() {
            note(format_args!("an exec could not be killed: {error}"));
        }
    }

    /// The container has ended, and everything in it with it.
    pub(super) fn end_execs(&mut self) {
        for number in self.execs.keys().copied().collect::<Vec<_>>() {
            self.exec_ended(number);
        }
        for exec in std::mem::take(&mut self.execs).into_values() {
            let failure: Failure = phase("exec", "the container has ended");
            self.reply(exec.waiting, Answer::Failure(failure));
        }
    }
}
