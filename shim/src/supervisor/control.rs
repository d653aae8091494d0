//! Requests: what each does, and its answer.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use corten_proto::shim::{
    Create, Done, Failure, FailureKind, HelloReply, Phase, Request, Stop, Update,
    reply::Result as Answer, request::Call,
};
use corten_sys::{ns, process, socket};

use super::{Deadline, Supervisor, Waiting, kill, stage::Stage};
use crate::{
    container::{self, Executor, Stdio},
    exit,
    failure::{Doing, Result, invalid, phase},
    input::Input,
    log::Log,
    output::Output,
    poll::Source,
};

/// The version of `shim.proto` that this shim was built with.
const VERSION: u32 = 1;

impl Supervisor {
    /// Answers a request, at once or when its work is done. `fds` came with it.
    pub(super) fn answer(&mut self, connection: u64, request: Request, fds: Vec<OwnedFd>) {
        let to = Waiting {
            connection,
            request: request.id,
        };
        match self.call(to, request.call, fds) {
            Ok(Some(answer)) => self.reply(to, answer),
            Ok(None) => {}
            Err(failure) => self.reply(to, Answer::Failure(failure)),
        }
    }

    /// `None` where the answer comes later.
    fn call(
        &mut self,
        to: Waiting,
        call: Option<Call>,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Answer>> {
        let call = call.ok_or_else(|| Failure {
            kind: FailureKind::FailureInvalid.into(),
            operation: "read a request".into(),
            hint: "this shim is too old to know it".into(),
            ..Failure::default()
        })?;
        if !self.stage.allows(&call) {
            return Err(phase(name(&call), self.stage.reason()));
        }
        let done = Ok(Some(Answer::Done(Done {})));
        match call {
            Call::Hello(_) => Ok(Some(Answer::Hello(self.hello()))),
            Call::Create(create) => self.create(to, create, fds).map(|()| None),
            Call::Start(_) => self.start(to).map(|()| None),
            Call::Exec(exec) => self.exec(to, exec, fds).map(|()| None),
            Call::Stop(stop) => self.stop(&stop).and(done),
            Call::ReopenLog(_) => self.reopen_log().and(done),
            Call::Update(update) => self.update(&update).map(Some),
            Call::Shutdown(_) => {
                self.give_up();
                done
            }
            Call::Attach(attach) => self.attach(to.connection, &attach, fds).and(done),
            Call::SharePids(_) => self.share_pids(fds).and(done),
            Call::Configure(configure) => self.configure(to, &configure.config).map(|()| None),
        }
    }

    fn hello(&self) -> HelloReply {
        let init = self.container.as_ref().map(Executor::init_pid);
        let phase = self.stage.phase();
        HelloReply {
            version: VERSION,
            shim_pid: i32::try_from(std::process::id()).unwrap_or_default(),
            init_pid: init.filter(|_| phase != Phase::Empty).unwrap_or_default(),
            phase: phase.into(),
            started_at_ns: self.started_at_ns,
        }
    }

    fn create(&mut self, to: Waiting, request: Create, mut fds: Vec<OwnedFd>) -> Result<()> {
        let missing = |what| move || invalid("create", what, "is missing");
        let template = fds.pop();
        let template = template.ok_or_else(missing("the template mount namespace"))?;
        let plan = request.plan.as_ref().ok_or_else(missing("plan"))?;
        self.state_dir = PathBuf::from(&plan.state_dir);
        let log = Log::open(&plan.log.clone().unwrap_or_default())?;
        let (output, stdout, stderr) = Output::open(log, &self.events)?;
        let process = plan.process.as_ref().ok_or_else(missing("process"))?;
        let (input, stdin) = Input::open(process)?;
        let stdio = Stdio {
            stdin,
            stdout,
            stderr,
        };
        let (mut container, report) = container::create(request, &template, stdio)?;
        let watched = self.events.add(&container.leader().pidfd, Source::Init);
        let watched = watched.and_then(|()| self.events.add(report.as_fd(), Source::Report));
        if let Err(error) = watched {
            kill(&mut container);
            let _ = process::wait(container.leader().pidfd.as_fd());
            let _ = container.remove();
            return Err(error).doing("watch", "the container's init");
        }
        self.container = Some(container);
        self.output = Some(output);
        self.input = input;
        self.report = Some(report);
        self.stage = Stage::Creating(to);
        Ok(())
    }

    fn configure(&mut self, to: Waiting, config: &[u8]) -> Result<()> {
        if let Some(container) = &mut self.container {
            container.configure(config)?;
        }
        let gone = || phase("configure", "the container's monitor has ended");
        self.report.as_ref().ok_or_else(gone)?.go_ahead()?;
        self.stage = Stage::Creating(to);
        Ok(())
    }

    fn start(&mut self, to: Waiting) -> Result<()> {
        let report = self.report.as_ref();
        let gone = || phase("start", "the container's init has ended");
        report.ok_or_else(gone)?.go_ahead()?;
        self.started_at_ns = exit::now();
        self.stage = Stage::Starting(to);
        Ok(())
    }

    fn stop(&mut self, request: &Stop) -> Result<()> {
        let Some(container) = &self.container else {
            return Err(phase("stop", self.stage.reason()));
        };
        let left = Duration::from_millis(request.timeout_ms);
        if left.is_zero() || !matches!(self.stage, Stage::Running) {
            self.stop_is_over();
            return Ok(());
        }
        match &self.stop {
            None => {
                container
                    .signal(request.signal)
                    .doing("send signal", request.signal)?;
                self.set_deadline(left)
            }
            // Its signal was sent with the first.
            Some(deadline) if deadline.is_after(left) => self.set_deadline(left),
            Some(_) => Ok(()),
        }
    }

    fn set_deadline(&mut self, left: Duration) -> Result<()> {
        if let Some(old) = self.stop.take() {
            old.forget(&self.events);
        }
        let deadline = Deadline::new(left, &self.events);
        self.stop = Some(deadline.doing("set the deadline of", "the stop")?);
        Ok(())
    }

    /// Kills, and looks again after a while whether that has worked.
    pub(super) fn stop_is_over(&mut self) {
        if let Some(container) = &mut self.container {
            // One that the kernel has killed before, or that has ended by itself, is not ours.
            let init = container.leader().pidfd.as_fd();
            self.was_killed |= !process::has_ended(init).unwrap_or_default();
            kill(container);
        }
        if let Err(failure) = self.set_deadline(Deadline::AGAIN) {
            crate::note::note(format_args!(
                "no further kill can be timed: errno {}",
                failure.errno
            ));
        }
    }

    fn update(&mut self, request: &Update) -> Result<Answer> {
        match &mut self.container {
            Some(container) => container.update(request).map(Answer::Updated),
            None => Err(phase("update", self.stage.reason())),
        }
    }

    /// The shim knows init by its pidfd, the daemon only by a number.
    fn share_pids(&self, mut fds: Vec<OwnedFd>) -> Result<()> {
        let missing = || invalid("share the PID namespace", "socket", "is missing");
        let socket = fds.pop().ok_or_else(missing)?;
        let init = self.container.as_ref().and_then(Executor::init);
        let init = init.ok_or_else(|| phase("share the PID namespace", self.stage.reason()))?;
        let namespace = ns::of(init, "pid").doing("open", "the PID namespace")?;
        socket::send(&socket, &[1], Some(namespace.as_fd())).doing("send", "the PID namespace")
    }

    fn reopen_log(&mut self) -> Result<()> {
        match &mut self.output {
            Some(output) => output.log.reopen(),
            None => Err(phase("reopen the log", self.stage.reason())),
        }
    }
}

fn name(call: &Call) -> &'static str {
    match call {
        Call::Hello(_) => "hello",
        Call::Create(_) => "create",
        Call::Start(_) => "start",
        Call::Exec(_) => "exec",
        Call::Stop(_) => "stop",
        Call::ReopenLog(_) => "reopen the log",
        Call::Shutdown(_) => "shut down",
        Call::Update(_) => "update",
        Call::Configure(_) => "configure",
        Call::Attach(_) => "attach",
        Call::SharePids(_) => "share the PID namespace",
    }
}
