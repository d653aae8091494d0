//! The HTTP server that those come to who have a URL.

use std::{
    collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration,
};

use bytes::Bytes;
use hyper::{
    Method, Request as HttpRequest, StatusCode, body::Incoming, server::conn::http1,
    service::service_fn, upgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    attach, exec,
    handshake::{Agreed, Answer, agree, plain},
    io::Io,
    port_forward, remote_command,
    tls::Certificate,
    tokens::Request,
};
use crate::{
    config,
    context::Context,
    error::{Error, Result},
};

/// How long a client may take for its request, and for what is around it.
const HEADERS: Duration = Duration::from_secs(10);
/// How long the last words to clients may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// Of a request, all headers together, bytes.
const MAX_HEADERS: usize = 16 << 10;
/// Clients at once whose request has not come.
const MAX_STRANGERS: usize = 512;

/// The bound socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    certificate: Option<Certificate>,
}

impl Listener {
    pub(crate) async fn bind(config: &config::Streaming) -> Result<Self> {
        let wanted = (config.address, config.port);
        let socket = TcpListener::bind(wanted)
            .await
            .map_err(|source| Error::Io {
                doing: format!(
                    "listen for streaming at {}:{} (streaming.address, streaming.port)",
                    config.address, config.port
                ),
                source,
            })?;
        let address = socket.local_addr().map_err(|source| Error::Io {
            doing: "tell the streaming server's address".into(),
            source,
        })?;
        let certificate = config.tls().map(Certificate::load).transpose()?;
        Ok(Self {
            socket,
            address,
            certificate,
        })
    }

    /// The beginning of every URL.
    pub(crate) fn base(&self) -> String {
        let scheme = match self.certificate {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://{}", self.address)
    }
}

/// A client that has come by a URL, past the handshake.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) io: Io,
    /// What it has sent behind its request.
    pub(super) unread: Bytes,
    pub(super) agreed: Agreed,
    pub(super) ending: Ending,
}

/// Its sender goes when the daemon is about to end.
pub(crate) type Ending = watch::Receiver<()>;

/// Serves until the end. To sessions it is as if their clients had gone, who are told as far as their protocols can.
pub(crate) async fn serve(cx: Arc<Context>, listener: Listener, mut ending: Ending) {
    let sessions = Arc::new(Semaphore::new(cx.config.streaming.max_sessions));
    let mut strangers = Strangers::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            _ = ending.changed() => break,
        };
        match accepted {
            Ok((socket, _)) => {
                let acceptor = listener.certificate.as_ref().map(Certificate::acceptor);
                let (cx, sessions) = (Arc::clone(&cx), Arc::clone(&sessions));
                let ending = ending.clone();
                let meeting = tokio::spawn(async move {
                    if let Some(io) = open(socket, acceptor).await {
                        connection(cx, io, sessions, ending).await;
                    }
                });
                strangers.add(meeting.abort_handle());
            }
            Err(error) => {
                // Out of descriptors, for one: the next client may have more luck.
                tracing::warn!(%error, "a streaming client could not be accepted");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    // All permits are here when all sessions have ended.
    let all = u32::try_from(cx.config.streaming.max_sessions).unwrap_or(u32::MAX);
    let _ = timeout(FAREWELL, sessions.acquire_many(all)).await;
}

/// The tasks of those who have not shown a URL yet. When there are too many the one who is there longest goes: a request
/// takes milliseconds, unless its client means to take up the place.
#[derive(Debug, Default)]
struct Strangers(VecDeque<AbortHandle>);

impl Strangers {
    fn add(&mut self, task: AbortHandle) {
        if self.0.len() >= MAX_STRANGERS {
            self.0.retain(|task| !task.is_finished());
        }
        if self.0.len() >= MAX_STRANGERS
            && let Some(oldest) = self.0.pop_front()
        {
            tracing::debug!("a streaming client without a request makes room for another");
            oldest.abort();
        }
        self.0.push_back(task);
    }
}

async fn open(socket: TcpStream, acceptor: Option<TlsAcceptor>) -> Option<Io> {
    let _ = socket.set_nodelay(true);
    if let Err(error) = keep_alive(&socket) {
        tracing::debug!(%error, "a streaming client that is cut off will not be noticed");
    }
    let Some(acceptor) = acceptor else {
        return Some(Io::Plain(socket));
    };
    match timeout(HEADERS, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => Some(Io::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a streaming client's TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Has the kernel find out that a client's machine has gone, which says nothing itself: within a minute (tcp(7)).
fn keep_alive(socket: &TcpStream) -> io::Result<()> {
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    Ok(sockopt::set_socket_keepalive(socket, true)?)
}

/// One request, and the session that comes of it, in a task of its own.
async fn connection(cx: Arc<Context>, io: Io, sessions: Arc<Semaphore>, ending: Ending) {
    let (session, mut begun) = mpsc::channel(1);
    let service = service_fn(|request| {
        let (cx, sessions, session) = (&cx, &sessions, &session);
        async move { Ok::<_, Infallible>(answer(cx, request, sessions, session)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a streaming client's connection broke");
    }
    if let Ok(session) = begun.try_recv() {
        tokio::spawn(async move { run(&cx, session, ending).await });
    }
}

/// What a request has led to.
struct Session {
    request: Request,
    agreed: Agreed,
    upgrade: upgrade::OnUpgrade,
    _permit: OwnedSemaphorePermit,
}

/// The answer to a request; with a good one, the session is sent along.
fn answer(
    cx: &Context,
    mut http: HttpRequest<Incoming>,
    sessions: &Arc<Semaphore>,
    session: &mpsc::Sender<Session>,
) -> Answer {
    if ![Method::GET, Method::POST].contains(http.method()) {
        return plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and POST are answered",
        );
    }
    // Before the URL is used up.
    let Ok(permit) = Arc::clone(sessions).try_acquire_owned() else {
        let limit = cx.config.streaming.max_sessions;
        tracing::warn!(
            limit,
            "a streaming client was turned away: there are too many (streaming.max_sessions)"
        );
        let text = format!("there are {limit} sessions, as many as streaming.max_sessions allows");
        return plain(StatusCode::SERVICE_UNAVAILABLE, text);
    };
    let Some(request) = cx.tokens.take(http.uri().path()) else {
        let text = "this URL is not good, or no longer: it is for one session, within a minute";
        return plain(StatusCode::NOT_FOUND, text);
    };
    let offer = match &request {
        Request::Exec(_) | Request::Attach(_) => remote_command::OFFER,
        Request::PortForward(_) => port_forward::OFFER,
    };
    match agree(&http, offer) {
        Err(refusal) => refusal.answer(),
        Ok((agreed, answer)) => {
            let upgrade = upgrade::on(&mut http);
            let _ = session.try_send(Session {
                request,
                agreed,
                upgrade,
                _permit: permit,
            });
            answer
        }
    }
}

async fn run(cx: &Arc<Context>, session: Session, mut ending: Ending) {
    let parts = match session.upgrade.await.map(upgrade::Upgraded::downcast) {
        Ok(Ok(parts)) => parts,
        Ok(Err(_)) | Err(_) => {
            tracing::debug!("a streaming client went during the handshake");
            return;
        }
    };
    let parts: upgrade::Parts<TokioIo<Io>> = parts;
    let client = Client {
        io: parts.io.into_inner(),
        unread: parts.read_buf,
        agreed: session.agreed,
        ending: ending.clone(),
    };
    match session.request {
        Request::Exec(request) => exec::run(cx, request, client).await,
        Request::Attach(request) => attach::run(cx, request, client).await,
        Request::PortForward(request) => tokio::select! {
            () = port_forward::run(cx, request, client) => {}
            _ = ending.changed() => {}
        },
    }
}
