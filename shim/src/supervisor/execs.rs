//! Further processes in the container: started, timed, answered.

use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use corten_proto::shim::{self, ExecDone, reply::Result as Answer};
use corten_sys::process::{self, Ended};

use super::{Supervisor, Waiting};
use crate::{
    container::{Execed, Stdio},
    failure::{Doing, Result, invalid, phase},
    note::note,
    poll::{Poll, Source, timer},
};

#[derive(Debug)]
pub(super) struct Exec {
    process: Execed,
    waiting: Waiting,
    /// `None` where it may run for ever, or its time is over.
    deadline: Option<OwnedFd>,
    timed_out: bool,
}

impl Supervisor {
    /// Runs the command; its end is the answer.
    pub(super) fn exec(
        &mut self,
        waiting: Waiting,
        request: shim::Exec,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        if request.args.is_empty() {
            return Err(invalid("exec", "args", "is empty"));
        }
        let stdio = stdio(&request, fds)?;
        let Some(container) = &mut self.container else {
            return Err(phase("exec", self.stage.reason()));
        };
        let mut process = container.exec(request.args, stdio)?;
        let number = self.next;
        self.next += 1;
        match watch(&process, number, request.timeout_ms, &self.events) {
            Ok(deadline) => {
                let exec = Exec {
                    process,
                    waiting,
                    deadline,
                    timed_out: false,
                };
                self.execs.insert(number, exec);
                Ok(())
            }
            Err(failure) => {
                kill(&process);
                process.birth.end();
                process.remove_cgroup();
                Err(failure)
            }
        }
    }

    /// The command's own process has ended; what it left in the background runs on.
    pub(super) fn exec_ended(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else {
            return;
        };
        let ended = match exec.succeed(number, &self.events) {
            Ok(true) => return,
            Ok(false) => match process::try_wait(exec.process.birth.child().pidfd.as_fd()) {
                Ok(Some(ended)) => ended,
                _ => return,
            },
            Err(error) => {
                note(format_args!("an exec was given up: {error}"));
                kill(&exec.process);
                Ended::Killed(process::SIGKILL)
            }
        };
        let Some(exec) = self.execs.remove(&number) else {
            return;
        };
        self.events.remove(&exec.process.birth.child().pidfd);
        if let Some(timer) = &exec.deadline {
            self.events.remove(timer);
        }
        exec.process.remove_cgroup();
        self.reply(exec.waiting, exec.answer(ended));
    }

    pub(super) fn exec_is_over(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else {
            return;
        };
        exec.timed_out = true;
        if let Some(timer) = exec.deadline.take() {
            self.events.remove(&timer);
        }
        kill(&exec.process);
    }

    /// Nobody is left to hear of the connection's commands, nor to read what they print.
    pub(super) fn kill_execs_of(&mut self, connection: u64) {
        let execs = self.execs.values();
        for exec in execs.filter(|exec| exec.waiting.connection == connection) {
            kill(&exec.process);
        }
    }

    /// The container has ended, and everything in it with it.
    pub(super) fn end_execs(&mut self) {
        for number in self.execs.keys().copied().collect::<Vec<_>>() {
            // Of the one that sets up, and of the one that it has made.
            self.exec_ended(number);
            self.exec_ended(number);
        }
        // The kernel holds on to these.
        for exec in std::mem::take(&mut self.execs).into_values() {
            let failure = phase("exec", "the container has ended");
            self.reply(exec.waiting, Answer::Failure(failure));
        }
    }
}

impl Exec {
    /// Watches the process that the former one has made, where there is one.
    fn succeed(&mut self, number: u64, events: &Poll) -> io::Result<bool> {
        let Some(maker) = self.process.birth.succeed()? else {
            return Ok(false);
        };
        events.remove(&maker.pidfd);
        let birth = &mut self.process.birth;
        events
            .add(&birth.child().pidfd, Source::Exec(number))
            .inspect_err(|_| birth.end())?;
        Ok(true)
    }

    fn answer(mut self, ended: Ended) -> Answer {
        match self.process.report.read() {
            // Killed by us on its way, whatever it says of it.
            Err(failure) if !self.timed_out => Answer::Failure(failure),
            _ => Answer::Exec(ExecDone {
                exit_code: ended.code(),
                timed_out: self.timed_out,
            }),
        }
    }
}

/// The timer that fires when the time of the exec is over.
fn watch(process: &Execed, number: u64, limit_ms: u64, events: &Poll) -> Result<Option<OwnedFd>> {
    events
        .add(&process.birth.child().pidfd, Source::Exec(number))
        .doing("watch", "the exec")?;
    if limit_ms == 0 {
        return Ok(None);
    }
    let deadline = timer(Duration::from_millis(limit_ms));
    let deadline = deadline.doing("set the deadline of", "the exec")?;
    events
        .add(&deadline, Source::ExecDeadline(number))
        .doing("watch", "the exec's deadline")?;
    Ok(Some(deadline))
}

/// The descriptors that the request names, in their order; output that nobody wants goes to /dev/null.
fn stdio(request: &shim::Exec, fds: Vec<OwnedFd>) -> Result<Stdio> {
    let mut fds = fds.into_iter();
    let mut take = |named: bool| {
        let few = || invalid("exec", "descriptors", "fewer came than the request names");
        named.then(|| fds.next().ok_or_else(few)).transpose()
    };
    let (stdin, stdout, stderr) = (
        take(request.stdin)?,
        take(request.stdout)?,
        take(request.stderr)?,
    );
    let or_null = |fd: Option<OwnedFd>| match fd {
        Some(fd) => Ok(fd),
        None => {
            let file = OpenOptions::new().write(true).open("/dev/null");
            file.map(OwnedFd::from).doing("open", "/dev/null")
        }
    };
    Ok(Stdio {
        stdin,
        stdout: or_null(stdout)?,
        stderr: or_null(stderr)?,
    })
}

fn kill(process: &Execed) {
    if let Err(error) = process.kill() {
        note(format_args!("an exec could not be killed: {error}"));
    }
}
