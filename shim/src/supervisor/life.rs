//! The container's life: made, started, ended, and its end recorded and told.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use corten_proto::shim::{
    Created, Exited, Failure, FailureKind, Reply, Started, reply::Result as Answer,
};
use corten_sys::process::{self, Ended};

use super::{
    Supervisor, kill,
    stage::Stage,
    words::{Circumstances, describe, why_not_run},
};
use crate::{
    connection::Connection,
    container::{Executor, Told},
    exit,
    failure::Result,
    note::note,
    poll::Source,
};

/// The exit code of a program that could not be run.
const NOT_RUN: i32 = 128;
/// That of SIGKILL.
const KILLED: i32 = 128 + process::SIGKILL;
/// How long the last words may take to be sent.
const FAREWELL: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Takes what init has to tell: that it is made, that its program runs, or why not.
    pub(super) fn read_report(&mut self) {
        let Some(mut report) = self.report.take() else {
            return;
        };
        match (report.read(), &self.stage) {
            (Ok(Told::Prepared(prepared)), Stage::Creating(waiting)) => {
                let waiting = *waiting;
                self.report = Some(report);
                self.stage = Stage::Prepared;
                self.reply(waiting, Answer::Prepared(prepared));
                return;
            }
            (Ok(Told::Created(created)), Stage::Creating(waiting)) => {
                let waiting = *waiting;
                match self.created(created, report.take_descriptor()) {
                    Ok(created) => {
                        self.report = Some(report);
                        self.stage = Stage::Created;
                        self.reply(waiting, Answer::Created(created));
                        return;
                    }
                    Err(failure) => {
                        self.stage = Stage::Failed;
                        self.give_up();
                        self.reply(waiting, Answer::Failure(failure));
                    }
                }
            }
            (Ok(Told::Nothing), _) => {
                self.report = Some(report);
                return;
            }
            (Ok(Told::End), Stage::Starting(waiting)) => {
                let waiting = *waiting;
                self.stage = Stage::Running;
                self.follow_init();
                let started = Started {
                    at_ns: self.started_at_ns,
                    init_pid: self.container.as_ref().map_or(0, Executor::init_pid),
                };
                self.reply(waiting, Answer::Started(started));
            }
            (Err(failure), Stage::Creating(waiting)) => {
                let waiting = *waiting;
                self.stage = Stage::Failed;
                self.reply(waiting, Answer::Failure(failure));
            }
            (Err(failure), Stage::Starting(waiting)) => {
                let waiting = *waiting;
                self.reply(waiting, Answer::Failure(failure.clone()));
                self.stage = Stage::Refused(failure);
            }
            // It has died, which its pidfd tells, too.
            _ => {}
        }
        self.events.remove(report.as_fd());
    }

    /// Watches the init that the one which has set it up has made, where there is one.
    fn follow_init(&mut self) -> bool {
        let Some(container) = &mut self.container else {
            return false;
        };
        let watched = match container.succeed() {
            Ok(None) => return false,
            Ok(Some(maker)) => {
                self.events.remove(&maker.pidfd);
                self.events.add(&container.leader().pidfd, Source::Init)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = watched {
            note(format_args!(
                "the container's init cannot be watched: {error}"
            ));
            kill(container);
            self.end_of(Ended::Killed(process::SIGKILL));
        }
        true
    }

    fn created(&mut self, mut created: Created, terminal: Option<OwnedFd>) -> Result<Created> {
        if let (Some(output), Some(terminal)) = (&mut self.output, terminal) {
            output.set_terminal(terminal, &self.events)?;
        }
        if let Some(container) = &mut self.container {
            container.set_created(&mut created)?;
        }
        // The plan is the largest thing that a shim ever holds.
        corten_sys::memory::trim();
        Ok(created)
    }

    /// Ends a shim that has no container, or whose container has never run.
    pub(super) fn give_up(&mut self) {
        if self.container.is_some() {
            self.stop_is_over();
        } else {
            self.done = true;
        }
    }

    /// Init has ended: everything else of the container ends, then its end is recorded and told.
    pub(super) fn end(&mut self) {
        if self.follow_init() {
            return;
        }
        let Some(container) = &self.container else {
            return;
        };
        let ended = match process::try_wait(container.leader()) {
            Ok(Some(ended)) => ended,
            Ok(None) => return,
            // There is nothing to wait for: an event that stays would come for ever.
            Err(error) => {
                note(format_args!("the container's init was given up: {error}"));
                Ended::Killed(process::SIGKILL)
            }
        };
        self.end_of(ended);
    }

    fn end_of(&mut self, ended: Ended) {
        let at_ns = exit::now();
        // What it said last.
        self.read_report();
        let Some(mut container) = self.container.take() else {
            return;
        };
        kill(&mut container);
        if let Some(mut output) = self.output.take() {
            output.drain(&self.events);
        }
        let oom = container.oom();
        // A child may have been killed for want of memory before, and init by us now.
        let is_ours = self.was_killed && ended == Ended::Killed(process::SIGKILL);
        let oom_killed = oom.is_some() && ended.code() == KILLED && !is_ours;
        let stage = std::mem::replace(&mut self.stage, Stage::Exited);
        let exited = stage.was_created().then(|| {
            let known = Circumstances {
                cgroup: container.cgroup(),
                oom: oom.as_ref(),
                has_filter: container.has_filter(),
                was_killed: self.was_killed,
            };
            let (code, message, not_run) = match &stage {
                Stage::Refused(failure) => (NOT_RUN, why_not_run(failure), true),
                _ => (ended.code(), describe(ended, &known), false),
            };
            Exited {
                code,
                at_ns,
                oom_killed: oom_killed && !not_run,
                message,
                started_at_ns: self.started_at_ns,
                not_run,
                oom_kills: oom.as_ref().map_or(0, |oom| oom.kills),
            }
        });
        // Before anything that can take its time: the daemon may be gone, and this process may be next.
        if let Some(exited) = &exited
            && let Err(error) = exit::write(&self.state_dir, exited)
        {
            note(format_args!("the exit file could not be written: {error}"));
        }
        if let Stage::Creating(waiting) = stage {
            let failure = died(ended, oom_killed);
            self.reply(waiting, Answer::Failure(failure));
        }
        self.end_execs();
        if let Err(error) = container.remove() {
            note(format_args!("the cgroup could not be removed: {error}"));
        }
        if let Some(exited) = exited {
            self.tell(&exited);
        }
        self.done = true;
    }

    fn tell(&mut self, exited: &Exited) {
        // A daemon that has just come, too.
        self.accept();
        let event = Reply {
            id: 0,
            result: Some(Answer::Exited(exited.clone())),
        };
        for connection in self.connections.values_mut() {
            connection.send(&event);
        }
    }

    /// Sends what is left to be sent; a daemon that does not read is not waited for.
    pub(super) fn say_farewell(&mut self) {
        let end = Instant::now() + FAREWELL;
        while self.connections.values().any(Connection::has_unsent) && Instant::now() < end {
            self.flush();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Of an init that was ended before it could tell anything.
fn died(ended: Ended, oom_killed: bool) -> Failure {
    let how = match ended {
        Ended::Exited(code) => format!("its init has exited with {code}"),
        Ended::Killed(signal) => format!("its init was killed by signal {signal}"),
    };
    let why = if oom_killed {
        ": the kernel has killed it for want of memory, so the container's memory limit is too low"
    } else {
        ""
    };
    Failure {
        kind: FailureKind::FailureInternal.into(),
        operation: "set up the container".into(),
        hint: format!("{how}{why}"),
        ..Failure::default()
    }
}
