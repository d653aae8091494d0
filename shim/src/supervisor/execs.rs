//! Further processes in the container: started, timed, answered.

use std::{io, os::fd::OwnedFd, time::Duration};

use corten_proto::shim::{self, ExecDone, reply::Result as Answer};
use corten_sys::process::{self, Ended};

use super::{Supervisor, Waiting, descriptors::Descriptors};
use crate::{
    container::{Ends, Execed, Stdio},
    failure::{Doing, Result, invalid, phase},
    note::note,
    poll::{Poll, Source, timer},
};

/// Time for what was killed to be gone.
const HELD: Duration = Duration::from_secs(1);
/// Exit code of a process that ends by SIGKILL.
const KILLED: i32 = 128 + 9;

#[derive(Debug)]
pub(super) struct Exec {
    process: Execed,
    /// `None` once it is answered.
    waiting: Option<Waiting>,
    /// `None` where it may run for ever, or is killed and waited for.
    deadline: Option<OwnedFd>,
    timed_out: bool,
    /// See shim.proto.
    grace: Duration,
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
        let ends = ends(&request, fds)?;
        let Some(container) = &mut self.container else {
            return Err(phase("exec", self.stage.reason()));
        };
        let process = container.exec(request.args, ends)?;
        let number = self.next;
        self.next += 1;
        match watch(&process, number, request.timeout_ms, &self.events) {
            Ok(deadline) => {
                let exec = Exec {
                    process,
                    waiting: Some(waiting),
                    deadline,
                    timed_out: false,
                    grace: Duration::from_millis(request.hangup_grace_ms),
                };
                self.execs.insert(number, exec);
                Ok(())
            }
            Err(failure) => {
                kill(&process);
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
            Ok(false) => process::try_wait(exec.process.birth.child()),
            Err(error) => Err(error),
        };
        let ended = match ended.doing("watch", "the exec").transpose() {
            Some(ended) => ended,
            None => return,
        };
        if ended.is_err() {
            // There is nothing to wait for: an event that stays would come for ever.
            kill(&exec.process);
        }
        let Some(exec) = self.execs.remove(&number) else {
            return;
        };
        self.events.remove(&exec.process.birth.child().pidfd);
        if let Some(timer) = &exec.deadline {
            self.events.remove(timer);
        }
        exec.process.remove_cgroup();
        if let Some(waiting) = exec.waiting {
            let answer = ended.map_or_else(Answer::Failure, |ended| exec.answer(ended));
            self.reply(waiting, answer);
        }
    }

    /// Its time is over. One that the kernel holds on to, as in a frozen cgroup, dies when it is let go: nobody waits for that.
    pub(super) fn exec_is_over(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else {
            return;
        };
        if let Some(timer) = exec.deadline.take() {
            self.events.remove(&timer);
        }
        if !std::mem::replace(&mut exec.timed_out, true) {
            kill(&exec.process);
            exec.deadline = set_deadline(number, HELD, &self.events).ok();
        } else if let Some(waiting) = exec.waiting.take() {
            let done = ExecDone {
                exit_code: KILLED,
                timed_out: true,
            };
            self.reply(waiting, Answer::Exec(done));
        }
    }

    /// Nobody is left to hear of the connection's commands, nor to read what they print.
    pub(super) fn hang_up_execs_of(&mut self, connection: u64) {
        let execs = self.execs.iter_mut();
        let is_its = |exec: &Exec| {
            let waiting = exec.waiting.as_ref();
            waiting.is_some_and(|waiting| waiting.connection == connection)
        };
        for (number, exec) in execs.filter(|(_, exec)| is_its(exec)) {
            exec.hang_up(*number, &self.events);
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
            if let Some(waiting) = exec.waiting {
                self.reply(waiting, Answer::Failure(failure));
            }
        }
    }
}

impl Exec {
    /// Asks it to end, and sees to it that it does.
    fn hang_up(&mut self, number: u64, events: &Poll) {
        if let Some(timer) = self.deadline.take() {
            events.remove(&timer);
        }
        if self.grace.is_zero() {
            return kill(&self.process);
        }
        if let Err(error) = self.process.hang_up() {
            note(format_args!(
                "an exec was not told that its client has gone: {error}"
            ));
        }
        match set_deadline(number, self.grace, events) {
            Ok(timer) => self.deadline = Some(timer),
            // Without a clock there is no grace.
            Err(_) => kill(&self.process),
        }
    }

    /// Watches the process that the former one has made, where there is one.
    fn succeed(&mut self, number: u64, events: &Poll) -> io::Result<bool> {
        let Some(maker) = self.process.birth.succeed()? else {
            return Ok(false);
        };
        events.remove(&maker.pidfd);
        let birth = &mut self.process.birth;
        events.add(&birth.child().pidfd, Source::Exec(number))?;
        Ok(true)
    }

    /// Whether this is the id of its process, or of the one that makes it.
    pub(super) fn has(&self, pid: i32) -> bool {
        self.process.birth.has(pid)
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
    set_deadline(number, Duration::from_millis(limit_ms), events).map(Some)
}

fn set_deadline(number: u64, left: Duration, events: &Poll) -> Result<OwnedFd> {
    let deadline = timer(left).doing("set the deadline of", "the exec")?;
    events
        .add(&deadline, Source::ExecDeadline(number))
        .doing("watch", "the exec's deadline")?;
    Ok(deadline)
}

/// The descriptors that the request names, in their order.
fn ends(request: &shim::Exec, fds: Vec<OwnedFd>) -> Result<Ends> {
    let mut fds = Descriptors::of("exec", fds);
    if let Some(socket) = fds.take(request.terminal)? {
        return Ok(Ends::Terminal(socket));
    }
    // Never something of the host's, such as its /dev/null, whose mode root inside could change.
    let missing = |what| move || invalid("exec", what, "is missing");
    Ok(Ends::Streams(Stdio {
        stdin: fds.take(request.stdin)?,
        stdout: fds.take(request.stdout)?.ok_or_else(missing("stdout"))?,
        stderr: fds.take(request.stderr)?.ok_or_else(missing("stderr"))?,
    }))
}

fn kill(process: &Execed) {
    if let Err(error) = process.kill() {
        note(format_args!("an exec could not be killed: {error}"));
    }
}
