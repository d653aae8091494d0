//! A connection to one container's shim: calls and their answers, and the event of the container's end.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use corten_proto::{
    layout,
    shim::{
        Attach, Configure, Create, Created, Exec, ExecDone, Exited, Hello, HelloReply, Oci, Plan,
        Prepared, ReopenLog, Reply, Request, SharePids, Start, Started, Stop, Update,
        reply::Result as Answer, request::Call,
    },
};
use corten_sys::socket;
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
    time::timeout,
};

use super::{Error, frame};

/// The version of `shim.proto` that this daemon was built with.
const VERSION: u32 = 1;

/// Calls that only touch the shim's own state.
const QUICK: Duration = Duration::from_secs(10);
/// Creating opens volumes that may hang; the kubelet gives up after 2 minutes.
const CREATE: Duration = Duration::from_secs(110);

/// Safe to share; dropping the last one closes the connection once [`Events::end`] is dropped, too.
#[derive(Debug)]
pub(crate) struct Client {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    pending: Arc<Pending>,
    next: AtomicU64,
}

/// The reading side, which somebody has to drive.
#[derive(Debug)]
pub(crate) struct Events {
    reader: OwnedReadHalf,
    pending: Arc<Pending>,
}

/// `None` once the connection is over.
#[derive(Debug)]
struct Pending(Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>);

/// A process to be run in the container.
#[derive(Debug, Default)]
pub(crate) struct Command {
    pub(crate) args: Vec<Vec<u8>>,
    pub(crate) io: ExecIo,
    /// After which it is killed; zero is never.
    pub(crate) limit: Duration,
    /// Between SIGHUP and SIGKILL, once its caller has gone.
    pub(crate) hangup_grace: Duration,
}

/// Descriptors for a process that is run in the container.
#[derive(Debug, Default)]
pub(crate) struct ExecIo {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// In place of these: a stream socket that the terminal's master comes over.
    pub(crate) terminal: Option<OwnedFd>,
}

impl Client {
    /// Connects to the shim whose state directory is `state_dir`.
    pub(crate) async fn connect(state_dir: &Path) -> Result<(Self, Events), Error> {
        let short = ShortPath::open(state_dir).map_err(Error::Connection)?;
        let stream = UnixStream::connect(short.socket())
            .await
            .map_err(Error::Connection)?;
        let (reader, writer) = stream.into_split();
        let pending = Arc::new(Pending(Mutex::new(Some(HashMap::new()))));
        let client = Self {
            writer: tokio::sync::Mutex::new(writer),
            pending: Arc::clone(&pending),
            next: AtomicU64::new(1),
        };
        Ok((client, Events { reader, pending }))
    }

    pub(crate) async fn hello(&self) -> Result<HelloReply, Error> {
        match self
            .call(Call::Hello(Hello { version: VERSION }), &[], Some(QUICK))
            .await?
        {
            Answer::Hello(hello) => Ok(hello),
            _ => Err(Error::Confused { what: "Hello" }),
        }
    }

    pub(crate) async fn create(
        &self,
        plan: Plan,
        template: BorrowedFd<'_>,
    ) -> Result<Created, Error> {
        let request = Create {
            plan: Some(plan),
            oci: None,
        };
        match self
            .call(Call::Create(request), &[template], Some(CREATE))
            .await?
        {
            Answer::Created(created) => Ok(created),
            _ => Err(Error::Confused { what: "Create" }),
        }
    }

    /// The first half of a creation by an external runtime.
    pub(crate) async fn prepare(
        &self,
        plan: Plan,
        oci: Oci,
        template: BorrowedFd<'_>,
    ) -> Result<Prepared, Error> {
        let request = Create {
            plan: Some(plan),
            oci: Some(oci),
        };
        match self
            .call(Call::Create(request), &[template], Some(CREATE))
            .await?
        {
            Answer::Prepared(prepared) => Ok(prepared),
            _ => Err(Error::Confused { what: "Create" }),
        }
    }

    /// The second half: `config` is the bundle's config.json.
    pub(crate) async fn configure(&self, config: Vec<u8>) -> Result<Created, Error> {
        let request = Configure { config };
        match self
            .call(Call::Configure(request), &[], Some(CREATE))
            .await?
        {
            Answer::Created(created) => Ok(created),
            _ => Err(Error::Confused { what: "Configure" }),
        }
    }

    pub(crate) async fn start(&self) -> Result<Started, Error> {
        match self.call(Call::Start(Start {}), &[], Some(CREATE)).await? {
            Answer::Started(started) => Ok(started),
            _ => Err(Error::Confused { what: "Start" }),
        }
    }

    pub(crate) async fn stop(&self, signal: i32, timeout: Duration) -> Result<(), Error> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.call(Call::Stop(Stop { signal, timeout_ms }), &[], Some(QUICK))
            .await
            .map(drop)
    }

    pub(crate) async fn reopen_log(&self) -> Result<(), Error> {
        self.call(Call::ReopenLog(ReopenLog {}), &[], Some(QUICK))
            .await
            .map(drop)
    }

    /// Returns what the host does not allow, one sentence each.
    pub(crate) async fn update(&self, update: Update) -> Result<Vec<String>, Error> {
        match self.call(Call::Update(update), &[], Some(QUICK)).await? {
            Answer::Updated(updated) => Ok(updated.warnings),
            _ => Err(Error::Confused { what: "Update" }),
        }
    }

    /// The PID namespace of the container, which runs. A shim of before this call refuses it.
    pub(crate) async fn pid_namespace(&self) -> Result<OwnedFd, Error> {
        let pair = std::os::unix::net::UnixStream::pair();
        let (ours, theirs) = pair.map_err(Error::Connection)?;
        let call = Call::SharePids(SharePids {});
        self.call(call, &[theirs.as_fd()], Some(QUICK)).await?;
        let mut fds = Vec::new();
        // It is there: the answer came after it.
        socket::receive(&ours, &mut [0; 1], &mut fds).map_err(Error::Connection)?;
        fds.pop().ok_or(Error::Confused { what: "SharePids" })
    }

    /// Runs a command in the container until its first process ends.
    pub(crate) async fn exec(&self, command: Command) -> Result<ExecDone, Error> {
        let Command {
            args,
            io,
            limit,
            hangup_grace,
        } = command;
        let milliseconds =
            |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let request = Exec {
            args,
            stdin: io.stdin.is_some(),
            stdout: io.stdout.is_some(),
            stderr: io.stderr.is_some(),
            timeout_ms: milliseconds(limit),
            terminal: io.terminal.is_some(),
            hangup_grace_ms: milliseconds(hangup_grace),
        };
        let fds: Vec<_> = [&io.stdin, &io.stdout, &io.stderr, &io.terminal]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
        // The shim kills at its own deadline; this one is for a shim that does not.
        let deadline = (!limit.is_zero()).then(|| limit.saturating_add(QUICK));
        match self.call(Call::Exec(request), &fds, deadline).await? {
            Answer::Exec(done) => Ok(done),
            _ => Err(Error::Confused { what: "Exec" }),
        }
    }

    /// Shows the container's output on this connection, as `request` says with `fds`.
    pub(crate) async fn attach(
        &self,
        request: Attach,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let call = Call::Attach(request);
        self.call(call, fds, Some(QUICK)).await.map(drop)
    }

    async fn call(
        &self,
        call: Call,
        fds: &[BorrowedFd<'_>],
        limit: Option<Duration>,
    ) -> Result<Answer, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        if !self.pending.insert(id, sender) {
            return Err(Error::Gone);
        }
        let forget = Forget {
            pending: &self.pending,
            id,
        };
        let exchange = async {
            let writer = self.writer.lock().await;
            let request = Request {
                id,
                call: Some(call),
            };
            frame::send((*writer).as_ref(), &request, fds)
                .await
                .map_err(Error::Connection)?;
            drop(writer);
            receiver.await.map_err(|_closed| Error::Gone)
        };
        let answer = match limit {
            None => exchange.await,
            Some(limit) => match timeout(limit, exchange).await {
                Ok(answer) => answer,
                Err(_elapsed) => Err(Error::Silent {
                    seconds: limit.as_secs(),
                }),
            },
        };
        drop(forget);
        match answer? {
            Answer::Failure(failure) => Err(Error::Refused(failure.into())),
            answer => Ok(answer),
        }
    }
}

/// A way to a directory that fits into a socket's address, which holds 107 bytes (unix(7)).
#[derive(Debug)]
pub(super) struct ShortPath(File);

impl ShortPath {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        File::open(dir).map(Self)
    }

    /// Good as long as this is not dropped.
    pub(super) fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(layout::SHIM_SOCKET)
    }
}

/// Takes a call off the list, also when its caller was dropped.
struct Forget<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.pending.take(self.id);
    }
}

impl Pending {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when the connection is over.
    fn insert(&self, id: u64, sender: oneshot::Sender<Answer>) -> bool {
        match self.lock().as_mut() {
            Some(calls) => {
                calls.insert(id, sender);
                true
            }
            None => false,
        }
    }

    fn take(&self, id: u64) -> Option<oneshot::Sender<Answer>> {
        self.lock().as_mut()?.remove(&id)
    }

    fn close(&self) {
        self.lock().take();
    }
}

impl Events {
    /// Hands answers to their callers until the connection ends. Returns the container's end, if the shim told it.
    pub(crate) async fn end(mut self) -> Option<Exited> {
        let exited = self.deliver().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "connection to a shim broke");
            None
        });
        self.pending.close();
        exited
    }

    async fn deliver(&mut self) -> io::Result<Option<Exited>> {
        let mut exited = None;
        while let Some(Reply { id, result }) = frame::receive(&mut self.reader).await? {
            match result {
                Some(Answer::Exited(event)) => exited = Some(event),
                Some(answer) => {
                    if let Some(caller) = self.pending.take(id) {
                        let _ = caller.send(answer);
                    }
                }
                // An event of a newer shim.
                None => {}
            }
        }
        Ok(exited)
    }
}
