//! Requests: which is legal when, and what each does.

use std::{os::fd::AsFd, path::PathBuf, time::Duration};

use corten_proto::shim::{
    Create, Done, Failure, Hello, HelloReply, Phase, Request, Stop, reply::Result as Answer,
    request::Call,
};
use corten_sys::process;

use super::{Deadline, Supervisor, Waiting, kill};
use crate::{
    container::{self, Stdio},
    failure::{Doing, Result, invalid, phase},
    log::Log,
    output::Output,
    poll::Source,
};

/// The version of `shim.proto` that this shim was built with.
const VERSION: u32 = 1;

impl Supervisor {
    /// Answers a request, at once or when its work is done.
    pub(super) fn answer(&mut self, connection: u64, request: Request) {
        let to = Waiting {
            connection,
            request: request.id,
        };
        let answer = match request.call {
            Some(Call::Hello(hello)) => Ok(Some(Answer::Hello(self.hello(hello)))),
            Some(Call::Create(create)) => self.create(to, create).map(|()| None),
            Some(Call::Start(_)) => self.start(to).map(|()| None),
            Some(Call::Exec(exec)) => self.exec(to, exec).map(|()| None),
            Some(Call::Stop(stop)) => self.stop(&stop).map(|()| Some(Answer::Done(Done {}))),
            Some(Call::ReopenLog(_)) => self.reopen_log().map(|()| Some(Answer::Done(Done {}))),
            Some(Call::Shutdown(_)) => {
                self.give_up();
                Ok(Some(Answer::Done(Done {})))
            }
            // Of a newer daemon.
            None => Err(Failure {
                hint: "this shim does not know the request".into(),
                ..Failure::default()
            }),
        };
        match answer {
            Ok(Some(answer)) => self.reply(to, answer),
            Ok(None) => {}
            Err(failure) => self.reply(to, Answer::Failure(failure)),
        }
    }

    fn hello(&self, _daemon: Hello) -> HelloReply {
        let init_pid = self
            .container
            .as_ref()
            .map(|container| container.init.pid)
            .unwrap_or_default();
        let shim_pid = i32::try_from(std::process::id()).unwrap_or_default();
        HelloReply {
            version: VERSION,
            shim_pid,
            init_pid,
            phase: self.phase.into(),
        }
    }

    fn create(&mut self, to: Waiting, request: Create) -> Result<()> {
        let template = self
            .connections
            .get_mut(&to.connection)
            .and_then(crate::connection::Connection::take_fd);
        let template = template.ok_or_else(|| {
            invalid(
                "create",
                "descriptors",
                "the template mount namespace did not come",
            )
        })?;
        if self.phase != Phase::Empty || self.container.is_some() {
            return Err(phase("create", "this shim has a container already"));
        }
        let plan = request
            .plan
            .ok_or_else(|| invalid("create", "plan", "is missing"))?;
        self.state_dir = PathBuf::from(&plan.state_dir);
        let log = Log::open(&plan.log.clone().unwrap_or_default())?;
        let (output, stdout, stderr) = Output::open(log, &self.events)?;
        let (container, report) = container::spawn(
            plan,
            &template,
            Stdio {
                stdin: None,
                stdout,
                stderr,
            },
        )?;
        let watched = self.events.add(&container.init.pidfd, Source::Init);
        let watched = watched.and_then(|()| self.events.add(report.as_fd(), Source::Report));
        if let Err(error) = watched {
            kill(&container);
            let _ = process::wait(container.init.pidfd.as_fd());
            let _ = container.remove_cgroup();
            return Err(error).doing("watch", "the container's init");
        }
        self.container = Some(container);
        self.output = Some(output);
        self.report = Some(report);
        self.waiting = Some(to);
        Ok(())
    }

    fn start(&mut self, to: Waiting) -> Result<()> {
        match (self.phase, &mut self.report) {
            (Phase::Created, Some(report)) if self.waiting.is_none() => {
                report.go_ahead()?;
                self.waiting = Some(to);
                Ok(())
            }
            _ => Err(phase(
                "start",
                "the container was not created, or was started before",
            )),
        }
    }

    fn stop(&mut self, request: &Stop) -> Result<()> {
        let Some(container) = &self.container else {
            return Err(phase("stop", "there is no container"));
        };
        let left = Duration::from_millis(request.timeout_ms);
        if left.is_zero() || self.phase == Phase::Created {
            kill(container);
            return self.set_deadline(Deadline::again);
        }
        process::signal(container.init.pidfd.as_fd(), request.signal)
            .doing("send signal", request.signal)?;
        if self
            .stop
            .as_ref()
            .is_none_or(|deadline| deadline.is_after(left))
        {
            self.set_deadline(|events| Deadline::new(left, events))?;
        }
        Ok(())
    }

    fn set_deadline(
        &mut self,
        make: impl FnOnce(&crate::poll::Poll) -> std::io::Result<Deadline>,
    ) -> Result<()> {
        if let Some(old) = self.stop.take() {
            old.forget(&self.events);
        }
        self.stop = Some(make(&self.events).doing("set the deadline of", "the stop")?);
        Ok(())
    }

    /// Kills, and looks again after a while whether that has worked.
    pub(super) fn stop_is_over(&mut self) {
        if let Some(container) = &self.container {
            kill(container);
        }
        let _ = self.set_deadline(Deadline::again);
    }

    fn reopen_log(&mut self) -> Result<()> {
        match &mut self.output {
            Some(output) if self.phase != Phase::Empty => output.log.reopen(),
            _ => Err(phase("reopen the log", "there is no container")),
        }
    }
}
