//! The shim's loop: one thread that waits for connections, the container's output, ends of processes and deadlines.
//!
//! It ends with the container, or when nobody can want one any more.

mod attach;
mod children;
mod control;
mod deadline;
mod descriptors;
mod execs;
mod life;
mod stage;
mod words;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::Duration,
};

use corten_proto::shim::{Reply, reply::Result as Answer};
use nix::libc;
use rustix::net::sockopt::socket_peercred;

use self::{children::Ends, deadline::Deadline, execs::Exec, stage::Stage};
use crate::{
    connection::Connection,
    container::{Executor, Report},
    input::Input,
    log::Stream,
    note::note,
    output::Output,
    poll::{Poll, Source},
};

/// Requests of one connection before the others have their turn.
const BURST: u32 = 16;
/// A daemon has one, and one more for each exec.
const MAX_CONNECTIONS: usize = 4096;

/// Pause after a connection could not be taken.
const REST: Duration = Duration::from_millis(100);

/// A request whose answer is still to come.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    connection: u64,
    request: u64,
}

#[derive(Debug)]
pub(crate) struct Supervisor {
    events: Poll,
    /// Ends of children.
    ends: Ends,
    listener: UnixListener,
    /// Given up to refuse a connection where there is no descriptor left.
    spare: Option<OwnedFd>,
    connections: BTreeMap<u64, Connection>,
    /// Number of the next connection or exec.
    next: u64,
    stage: Stage,
    container: Option<Executor>,
    output: Option<Output>,
    input: Input,
    /// What init has still to tell.
    report: Option<Report>,
    stop: Option<Deadline>,
    /// The time of a stop was over, and init had not ended by then.
    was_killed: bool,
    execs: BTreeMap<u64, Exec>,
    state_dir: PathBuf,
    /// When Start came; 0 before that. Unit: nanoseconds of Unix time.
    started_at_ns: i64,
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
        let ends = Ends::watch(&events)?;
        Ok(Self {
            events,
            ends,
            listener,
            spare: spare(),
            connections: BTreeMap::new(),
            next: 1,
            stage: Stage::Empty,
            container: None,
            output: None,
            input: Input::default(),
            report: None,
            stop: None,
            was_killed: false,
            execs: BTreeMap::new(),
            state_dir: PathBuf::new(),
            started_at_ns: 0,
            done: false,
        })
    }

    /// Runs until the container has ended, or nobody can want one any more.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        while !self.done {
            let mut sources = self.events.wait()?;
            // The end of init comes after everything that it said.
            sources.sort_by_key(|source| matches!(source, Source::Init | Source::Child));
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
            Source::Child => self.reap(),
        }
    }

    fn accept(&mut self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_out_of_descriptors(&error) && self.spare.is_some() => {
                    // It would be waited for without an end: its client hears that it is not served. The kernel looks for a
                    // descriptor first, so that there may be no connection at all.
                    self.spare = None;
                    let was_there = self.listener.accept().is_ok();
                    self.spare = spare();
                    if !was_there {
                        return;
                    }
                    note(format_args!("a connection was refused: {error}"));
                    continue;
                }
                Err(error) => {
                    note(format_args!("a connection was lost: {error}"));
                    // The connection may still be there: not a circle without a rest.
                    std::thread::sleep(REST);
                    self.spare = self.spare.take().or_else(spare);
                    return;
                }
            };
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
        if self.connections.len() >= MAX_CONNECTIONS {
            return Err(io::Error::other("there are too many"));
        }
        let connection = Connection::new(stream)?;
        self.events.add(&connection, Source::Connection(number))?;
        Ok(connection)
    }

    /// Reads requests and answers them.
    fn serve(&mut self, number: u64) {
        for _ in 0..BURST {
            let Some(connection) = self.connections.get_mut(&number) else {
                return;
            };
            if !connection.interest().read {
                return;
            }
            match connection.receive() {
                Ok(Some((request, fds))) => self.answer(number, request, fds),
                Ok(None) => return,
                Err(error) => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        note(format_args!("a connection was closed: {error}"));
                    }
                    return self.close(number);
                }
            }
        }
    }

    fn close(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            self.events.remove(&connection);
        }
        self.hang_up_execs_of(number);
        self.detach(number);
        // A daemon that died before it had a container will not ask this shim for one again.
        if self.connections.is_empty() && !self.stage.was_created() {
            self.give_up();
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

    /// Sends what can be sent, and waits for what is to be waited for next.
    fn flush(&mut self) {
        let mut broken = Vec::new();
        for (number, connection) in &mut self.connections {
            let flushed = connection.flush().and_then(|()| {
                let (source, interest) = (Source::Connection(*number), connection.interest());
                if interest != connection.watched {
                    self.events.set_interest(&*connection, source, interest)?;
                    connection.watched = interest;
                }
                Ok(())
            });
            if flushed.is_err() {
                broken.push(*number);
            }
        }
        for number in broken {
            self.close(number);
        }
    }

    fn read_output(&mut self, stream: Stream) {
        if let Some(output) = &mut self.output {
            output.read(stream, &self.events);
        }
    }
}

fn spare() -> Option<OwnedFd> {
    File::open("/dev/null").ok().map(OwnedFd::from)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

fn kill(container: &mut Executor) {
    if let Err(error) = container.kill() {
        note(format_args!("the container could not be killed: {error}"));
    }
}
