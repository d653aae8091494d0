//! Calls to systemd's manager (org.freedesktop.systemd1(5)), by its own socket: a bus daemon that is busy or dead is in
//! nobody's way. A connection is for one call.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::wire::{self, HEADER, Message, Method, Writer};

/// Only root may connect.
pub(super) const SOCKET: &str = "/run/systemd/private";
/// From the connection to the end of the job.
const DEADLINE: Duration = Duration::from_secs(30);
/// Its first line, and "OK" with a number.
const MAX_GREETING: usize = 256;

/// Why systemd did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("systemd does not answer on {SOCKET}: {0}")]
    Io(#[from] io::Error),
    #[error("systemd has not answered on {SOCKET} for {DEADLINE:?}")]
    Silent,
    /// An error of systemd's, by its D-Bus name.
    #[error("{text} ({name})")]
    Refused { name: String, text: String },
    #[error("its job ended with {0:?}")]
    Job(String),
}

impl Error {
    pub(super) fn is_exists(&self) -> bool {
        matches!(self, Self::Refused { name, .. } if name == "org.freedesktop.systemd1.UnitExists")
    }

    fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { name, .. } if name == "org.freedesktop.systemd1.NoSuchUnit")
    }
}

/// A transient scope to be started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) unit: &'a str,
    pub(super) slice: &'a str,
    pub(super) description: &'a str,
    /// A scope begins with a process.
    pub(super) pid: u32,
}

/// Starts a scope whose cgroup is ours to divide: every controller, no rules for devices, no limit of systemd's own. It
/// is forgotten when it is empty, and outlives the stop of services, as the containers of other runtimes do.
pub(super) async fn start_scope(scope: Scope<'_>) -> Result<(), Error> {
    let mut arguments = Writer::default();
    arguments.string(scope.unit).string("fail");
    arguments.array(8, |properties| {
        properties
            .property("Description", "s", |value| value.string(scope.description))
            .property("Slice", "s", |value| value.string(scope.slice))
            .property("CollectMode", "s", |value| {
                value.string("inactive-or-failed")
            })
            .property("Delegate", "b", |value| value.u32(1))
            .property("DefaultDependencies", "b", |value| value.u32(0))
            .property("TasksMax", "t", |value| value.u64(u64::MAX))
            .property("PIDs", "au", |value| {
                value.array(4, |pids| {
                    pids.u32(scope.pid);
                })
            });
    });
    arguments.array(8, |_auxiliary_units| {});
    job(
        MANAGER,
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
        &arguments,
    )
    .await
}

/// Stops a unit. One that is not there is stopped already.
pub(super) async fn stop_unit(unit: &str) -> Result<(), Error> {
    let mut arguments = Writer::default();
    arguments.string(unit).string("replace");
    match job(MANAGER, "StopUnit", "ss", &arguments).await {
        Err(error) if error.is_missing() => Ok(()),
        result => result,
    }
}

/// Where systemd's manager is, and how long it may take.
#[derive(Clone, Copy, Debug)]
struct Manager<'a> {
    socket: &'a str,
    deadline: Duration,
}

const MANAGER: Manager<'_> = Manager {
    socket: SOCKET,
    deadline: DEADLINE,
};

/// Calls a method that starts a job, and waits for the job's end.
async fn job(
    manager: Manager<'_>,
    member: &str,
    signature: &str,
    arguments: &Writer,
) -> Result<(), Error> {
    let call = async {
        let mut bus = Bus::connect(manager.socket).await?;
        bus.call(member, signature, arguments).await?;
        bus.wait_for_job().await
    };
    timeout(manager.deadline, call)
        .await
        .unwrap_or(Err(Error::Silent))
}

const SERIAL: u32 = 1;

struct Bus {
    stream: UnixStream,
    /// Ends of jobs, by path, that came before the answer.
    removed: Vec<(String, String)>,
}

impl Bus {
    /// As root (D-Bus Specification, "Authentication Protocol"; 30 is 0 in hexadecimal ASCII). `BEGIN` goes ahead of the
    /// answer, as from sd-bus: its server reads what comes close behind `BEGIN` together with it, and looks at that only
    /// when something else comes.
    async fn connect(socket: &str) -> Result<Self, Error> {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n").await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() == MAX_GREETING {
                return Err(io::Error::other("it greets with too long a line").into());
            }
            line.push(stream.read_u8().await?);
        }
        if !line.starts_with(b"OK ") {
            let text = String::from_utf8_lossy(&line);
            return Err(io::Error::other(format!("it says {:?}", text.trim())).into());
        }
        Ok(Self {
            stream,
            removed: Vec::new(),
        })
    }

    async fn call(
        &mut self,
        member: &str,
        signature: &str,
        arguments: &Writer,
    ) -> Result<(), Error> {
        let method = Method {
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member,
            signature,
        };
        let message = wire::call(method, SERIAL, arguments);
        Ok(self.stream.write_all(&message).await?)
    }

    /// The answer names the job, whose end a signal tells. It goes to every private connection.
    async fn wait_for_job(&mut self) -> Result<(), Error> {
        let mut job = None;
        loop {
            match self.receive().await? {
                Some(Message::Reply(SERIAL, strings)) => job = strings.into_iter().next(),
                Some(Message::Error(SERIAL, name, text)) => {
                    return Err(Error::Refused { name, text });
                }
                Some(Message::Signal(_, strings)) => {
                    // Path, unit, result.
                    if let Ok([path, _, result]) = <[String; 3]>::try_from(strings) {
                        self.removed.push((path, result));
                    }
                }
                _ => continue,
            }
            let Some(job) = &job else { continue };
            if let Some((_, result)) = self.removed.iter().find(|(path, _)| path == job) {
                return match result.as_str() {
                    "done" => Ok(()),
                    other => Err(Error::Job(other.to_owned())),
                };
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<Message>, Error> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).await?;
        let mut rest = vec![0; wire::rest_length(&header)?];
        self.stream.read_exact(&mut rest).await?;
        Ok(wire::read(&header, &rest)?)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// What a client of a server that behaves like this gets.
    async fn answer(server: impl AsyncFnOnce(UnixStream)) -> Result<(), Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        let listener = UnixListener::bind(&path).unwrap();
        let manager = Manager {
            socket: path.to_str().unwrap(),
            deadline: Duration::from_millis(200),
        };
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            server(stream).await;
        };
        let arguments = Writer::default();
        let (result, ()) = tokio::join!(job(manager, "StopUnit", "ss", &arguments), serve);
        result
    }

    #[tokio::test]
    async fn a_server_that_is_gone_or_refuses_is_told() {
        let nowhere = Manager {
            socket: "/nowhere",
            ..MANAGER
        };
        let absent = job(nowhere, "StopUnit", "ss", &Writer::default()).await;
        assert!(absent.unwrap_err().to_string().contains("does not answer"));
        let hangs_up = answer(async |stream| drop(stream)).await;
        assert!(hangs_up.is_err());
        let rejects = answer(async |mut stream| {
            stream.read_exact(&mut [0; 26]).await.unwrap();
            stream.write_all(b"REJECTED EXTERNAL\r\n").await.unwrap();
        });
        let error = rejects.await.unwrap_err().to_string();
        assert!(error.contains("REJECTED"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_waited_for_until_the_deadline() {
        let silent = answer(async |mut stream| {
            let mut heard = Vec::new();
            // To the client's end.
            stream.read_to_end(&mut heard).await.unwrap();
        });
        assert!(matches!(silent.await, Err(Error::Silent)));
    }
}
