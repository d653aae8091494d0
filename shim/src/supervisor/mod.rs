//! The shim's life: one thread that waits for connections, the container's output, ends of processes and deadlines.
//!
//! ```text
//!   Empty --Create--> (init sets up) --> Created --Start--> Running --init ends--> exit file, Exited, end
//!     |                     | failure        | Shutdown, Stop: killed ------------^
//!     +---- Shutdown, or no connection left: end
//! ```

mod control;
mod deadline;
mod execs;

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use corten_proto::shim::{
    Created, Done, Exited, Failure, FailureKind, Phase, Reply, reply::Result as Answer,
};
use corten_sys::process;
use deadline::Deadline;
use execs::Exec;
use rustix::net::sockopt::socket_peercred;

use crate::{
    connection::Connection,
    container::{Container, Report, Told},
    exit,
    failure::Result,
    log::Stream,
    note::note,
    output::Output,
    poll::{Poll, Source},
};

/// The exit code of a program that could not be run.
const NOT_RUN: i32 = 128;
/// How long the last words may take to be sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// A request whose answer is still to come.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    connection: u64,
    request: u64,
}

#[derive(Debug)]
pub(crate) struct Supervisor {
    events: Poll,
    listener: UnixListener,
    connections: BTreeMap<u64, Connection>,
    /// Number of the next connection or exec.
    next: u64,
    phase: Phase,
    container: Option<Container>,
    output: Option<Output>,
    /// What init has still to tell, and who waits for it.
    report: Option<Report>,
    waiting: Option<Waiting>,
    /// Why the program could not be run.
    refused: Option<Failure>,
    stop: Option<Deadline>,
    execs: BTreeMap<u64, Exec>,
    state_dir: PathBuf,
    /// The shim's work is over.
    done: bool,
}

impl Supervisor {
    /// Serves the connections to `listener`.
    pub(crate) fn new(listener: OwnedFd) -> io::Result<Self> {
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let events = Poll::new()?;
        events.add(&listener, Source::Listener)?;
        Ok(Self {
            events,
            listener,
            connections: BTreeMap::new(),
            next: 1,
            phase: Phase::Empty,
            container: None,
            output: None,
            report: None,
            waiting: None,
            refused: None,
            stop: None,
            execs: BTreeMap::new(),
            state_dir: PathBuf::new(),
            done: false,
        })
    }

    /// Runs until the container has ended, or nobody can want one any more.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        while !self.done {
            let mut sources = self.events.wait()?;
            // The end of init comes after everything that it said.
            sources.sort_by_key(|source| *source == Source::Init);
            for source in sources {
                self.handle(source);
            }
            self.flush();
        }
        self.say_farewell();
        Ok(())
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Connection(number) => self.serve(number),
            Source::Report => self.read_report(),
            Source::Init => self.end(),
            Source::Stdout => self.read_output(Stream::Stdout),
            Source::Stderr => self.read_output(Stream::Stderr),
            Source::Deadline => self.stop_is_over(),
            Source::Exec(number) => self.exec_ended(number),
            Source::ExecDeadline(number) => self.exec_is_over(number),
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let number = self.next;
            self.next += 1;
            match self.welcome(stream, number) {
                Ok(connection) => drop(self.connections.insert(number, connection)),
                Err(error) => note(format_args!("a connection was refused: {error}")),
            }
        }
    }

    fn welcome(&self, stream: UnixStream, number: u64) -> io::Result<Connection> {
        if !socket_peercred(&stream)?.uid.is_root() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let connection = Connection::new(stream)?;
        self.events.add(&connection, Source::Connection(number))?;
        Ok(connection)
    }

    /// Reads requests and answers them.
    fn serve(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let filled = connection.fill();
        loop {
            let Some(connection) = self.connections.get_mut(&number) else {
                return;
            };
            match connection.next() {
                Ok(Some(request)) => self.answer(number, request),
                Ok(None) => break,
                Err(error) => {
                    note(format_args!("a connection was closed: {error}"));
                    return self.close(number);
                }
            }
        }
        if !matches!(filled, Ok(true)) {
            self.close(number);
        }
    }

    fn close(&mut self, number: u64) {
        self.connections.remove(&number);
        // A daemon that died before it asked for a container will not ask this shim again.
        if self.connections.is_empty() && self.phase == Phase::Empty {
            self.give_up();
        }
    }

    /// Ends a shim that has no container, or one that is still in the making.
    fn give_up(&mut self) {
        match &self.container {
            Some(container) => kill(container),
            None => self.done = true,
        }
    }

    fn reply(&mut self, to: Waiting, answer: Answer) {
        if let Some(connection) = self.connections.get_mut(&to.connection) {
            connection.send(&Reply {
                id: to.request,
                result: Some(answer),
            });
        }
    }

    fn flush(&mut self) {
        let mut broken = Vec::new();
        for (number, connection) in &mut self.connections {
            if !connection.has_unsent() {
                continue;
            }
            if connection.flush().is_err() {
                broken.push(*number);
                continue;
            }
            let (source, wanted) = (Source::Connection(*number), connection.has_unsent());
            let _ = self.events.set_writable(connection.as_fd(), source, wanted);
        }
        for number in broken {
            self.close(number);
        }
    }

    fn read_output(&mut self, stream: Stream) {
        if let Some(output) = &mut self.output {
            output.read(stream);
        }
    }

    /// Takes what init has to tell: that it is made, that its program runs, or why not.
    fn read_report(&mut self) {
        let Some(mut report) = self.report.take() else {
            return;
        };
        let told = report.read();
        let waiting = self.waiting.take();
        let answer = match (told, self.phase) {
            (Ok(Told::Created(created)), Phase::Empty) => {
                match self.created(created, report.take_terminal()) {
                    Ok(answer) => {
                        self.report = Some(report);
                        answer
                    }
                    Err(failure) => {
                        self.give_up();
                        Answer::Failure(failure)
                    }
                }
            }
            (Ok(Told::End), Phase::Created) if waiting.is_some() => {
                self.phase = Phase::Running;
                Answer::Done(Done {})
            }
            (Ok(_), _) => Answer::Failure(Failure {
                kind: FailureKind::FailureInternal.into(),
                operation: "set up the container".into(),
                hint: "its init died before it could tell why".into(),
                ..Failure::default()
            }),
            (Err(failure), phase) => {
                if phase == Phase::Created {
                    self.refused = Some(failure.clone());
                }
                Answer::Failure(failure)
            }
        };
        if let Some(waiting) = waiting {
            self.reply(waiting, answer);
        }
    }

    fn created(&mut self, mut created: Created, terminal: Option<OwnedFd>) -> Result<Answer> {
        if let (Some(output), Some(terminal)) = (&mut self.output, terminal) {
            output.set_terminal(terminal, &self.events)?;
        }
        if let Some(container) = &mut self.container {
            container.set_created(&created)?;
            created.init_pid = container.init.pid;
        }
        self.phase = Phase::Created;
        corten_sys::memory::trim();
        Ok(Answer::Created(created))
    }

    /// Init has ended: everything else of the container ends, then its end is recorded and told.
    fn end(&mut self) {
        let Some(container) = &self.container else {
            return;
        };
        let Ok(Some(ended)) = process::try_wait(container.init.pidfd.as_fd()) else {
            return;
        };
        let at_ns = exit::now();
        // What it said last.
        self.read_report();
        let Some(container) = self.container.take() else {
            return;
        };
        kill(&container);
        if let Some(output) = &mut self.output {
            output.drain();
        }
        let exited = self.exited(ended, at_ns, container.oom_kills() > 0);
        let was_made = self.phase != Phase::Empty;
        self.end_execs();
        if let Err(error) = container.remove_cgroup() {
            note(format_args!("the cgroup could not be removed: {error}"));
        }
        self.phase = Phase::Exited;
        self.done = true;
        if was_made {
            if let Err(error) = exit::write(&self.state_dir, &exited) {
                note(format_args!("the exit file could not be written: {error}"));
            }
            for connection in self.connections.values_mut() {
                connection.send(&Reply {
                    id: 0,
                    result: Some(Answer::Exited(exited.clone())),
                });
            }
        }
    }

    fn exited(&mut self, ended: process::Ended, at_ns: i64, kernel_killed: bool) -> Exited {
        if let Some(failure) = self.refused.take() {
            let what = if failure.subject.is_empty() {
                String::new()
            } else {
                format!(" {:?}", failure.subject)
            };
            let why = if failure.errno == 0 {
                failure.hint
            } else {
                io::Error::from_raw_os_error(failure.errno).to_string()
            };
            let message = format!("{}{what}: {why}", failure.operation);
            return Exited {
                code: NOT_RUN,
                at_ns,
                oom_killed: false,
                message,
            };
        }
        let code = ended.code();
        Exited {
            code,
            at_ns,
            oom_killed: kernel_killed && code == 137,
            message: String::new(),
        }
    }

    /// Sends what is left to be sent; a daemon that does not read is not waited for.
    fn say_farewell(&mut self) {
        let end = Instant::now() + FAREWELL;
        while self.connections.values().any(Connection::has_unsent) && Instant::now() < end {
            self.flush();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn kill(container: &Container) {
    if let Err(error) = container.kill() {
        note(format_args!("the container could not be killed: {error}"));
    }
}
