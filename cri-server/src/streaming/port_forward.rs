//! A session of PortForward: connections to ports of a pod, many at once.
//!
//! In SPDY each connection is a pair of streams with one request id: `data`, and `error`, which has a text if it fails.

use std::{
    collections::HashMap,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use corten_proto::cri;
use corten_sys::{ns, thread};
use nix::sched::CloneFlags;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{
    handshake::{Agreed, Offer},
    server::Client,
    spdy::{Incoming, NewStream, Receiver, Sender, Session, Settings},
    websocket::Tunnel,
};
use crate::{
    blocking::blocking,
    context::Context,
    error::{At, Error, Result, chain},
};

pub(super) const OFFER: Offer = Offer {
    spdy: &["portforward.k8s.io"],
    websocket: &["SPDY/3.1+portforward.k8s.io", "v2.portforward.k8s.io"],
};

/// Two a connection.
const MAX_STREAMS: usize = 4096;
/// Bytes read at once.
const READ: usize = 32 << 10;
/// How long a program in the pod may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// One connection of the client's.
#[derive(Debug)]
struct Connection {
    port: NonZeroU16,
    data: (Receiver, Sender),
    error: (Receiver, Sender),
}

pub(super) async fn run(cx: &Arc<Context>, request: cri::PortForwardRequest, client: Client) {
    let settings = Settings {
        idle_timeout: cx.config.streaming.idle_timeout(),
        max_streams: MAX_STREAMS,
    };
    let Client {
        io, unread, agreed, ..
    } = client;
    let gone = match io.gone() {
        Ok(gone) => gone,
        Err(error) => {
            tracing::info!(%error, "a client of PortForward was given up");
            return;
        }
    };
    let (session, incoming) = match agreed {
        Agreed::Spdy(_) => Session::start(io, &unread, settings, gone),
        Agreed::WebSocket(_) => {
            let tunnel = Tunnel::open(io, &unread).await;
            Session::start(tunnel, &[], settings, gone)
        }
    };
    serve(cx, &request.pod_sandbox_id, incoming).await;
    session.close().await;
}

/// Serves connections until the client goes.
async fn serve(cx: &Arc<Context>, pod: &str, mut incoming: Incoming) {
    let creation_timeout = cx.config.streaming.creation_timeout();
    let mut connections = JoinSet::new();
    let mut halves: HashMap<String, Half> = HashMap::new();
    let has_worked = Arc::new(AtomicBool::new(false));
    loop {
        let next = tokio::select! {
            next = incoming.next() => next,
            Some(_) = connections.join_next() => continue,
        };
        let Some(stream) = next else {
            return;
        };
        halves.retain(|_, half| half.opened.elapsed() < creation_timeout);
        let Some(connection) = pair(&mut halves, stream) else {
            continue;
        };
        let (cx, pod, has_worked) = (Arc::clone(cx), pod.to_owned(), Arc::clone(&has_worked));
        connections.spawn(async move { forward(&cx, &pod, connection, &has_worked).await });
    }
}

/// A stream whose other has not come. Clients open it only once this one is accepted.
struct Half {
    opened: Instant,
    is_data: bool,
    stream: (Receiver, Sender),
}

/// Accepts a stream, and gives the connection when its other is there. One that makes no sense is refused.
fn pair(halves: &mut HashMap<String, Half>, stream: NewStream) -> Option<Connection> {
    let is_data = match stream.headers.get("streamtype")? {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    let port: NonZeroU16 = stream.headers.get("port")?.parse().ok()?;
    let id = match stream.headers.get("requestid") {
        Some(id) => id.to_owned(),
        // Old clients open the error stream and, as the next, that for data.
        None if is_data => stream.id.checked_sub(2)?.to_string(),
        None => stream.id.to_string(),
    };
    if halves.get(&id).is_some_and(|half| half.is_data == is_data) {
        return None;
    }
    let stream = stream.accept()?;
    let Some(other) = halves.remove(&id) else {
        let half = Half {
            opened: Instant::now(),
            is_data,
            stream,
        };
        halves.insert(id, half);
        return None;
    };
    let (data, error) = match is_data {
        true => (stream, other.stream),
        false => (other.stream, stream),
    };
    Some(Connection { port, data, error })
}

/// Serves one connection.
///
/// `kubectl` gives up the whole session when it reads an error of one connection. So an error has a text only as long as no
/// connection of the session has worked; later ones are reset, as one that breaks midway is.
async fn forward(cx: &Context, pod: &str, connection: Connection, has_worked: &AtomicBool) {
    let Connection { port, data, error } = connection;
    match connect(cx, pod, port).await {
        Ok(socket) => {
            has_worked.store(true, Ordering::Relaxed);
            copy(socket, data).await;
        }
        Err(why) => {
            let why = chain(&why);
            tracing::info!(pod, port, error = why, "a port could not be forwarded");
            if !has_worked.load(Ordering::Relaxed) {
                let text = format!("forward port {port} to pod {pod}: {why}");
                let _ = error.1.send(text.into()).await;
            }
        }
    }
    let _ = error.1.finish().await;
}

/// Copies both ways; each has its own end.
async fn copy(socket: TcpStream, (mut receiver, sender): (Receiver, Sender)) {
    let (mut read, mut write) = socket.into_split();
    let to_pod = async {
        while let Some(data) = receiver.receive().await.map_err(io::Error::other)? {
            write.write_all(&data).await?;
        }
        write.shutdown().await
    };
    let to_client = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ);
            if read.read_buf(&mut buffer).await? == 0 {
                return sender.finish().await.map_err(io::Error::other);
            }
            let data = buffer.split().freeze();
            sender.send(data).await.map_err(io::Error::other)?;
        }
    };
    // An error of one ends the other: the connection is reset on both sides.
    if let Err(error) = tokio::try_join!(to_pod, to_client) {
        tracing::debug!(%error, "a forwarded connection broke");
    }
}

/// Connects to a port of the pod, at its localhost.
async fn connect(cx: &Context, pod: &str, port: NonZeroU16) -> Result<TcpStream> {
    let pod = cx.store.pod(pod)?;
    pod.check_ready()?;
    let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut failure = None;
    for address in addresses {
        let address = SocketAddr::from((address, port.get()));
        match connect_to(pod.netns(), address).await {
            Ok(socket) => return Ok(socket),
            // That of the first tells most: few programs listen on ::1 alone.
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    Err(failure.unwrap_or(Error::Panicked))
}

async fn connect_to(netns: Option<PathBuf>, address: SocketAddr) -> Result<TcpStream> {
    let failed = |source| Error::Io {
        doing: format!("connect to {address} in the pod"),
        source,
    };
    let socket = match netns {
        None => socket(address).map_err(failed)?,
        Some(path) => blocking(move || socket_in(path, address)).await?,
    };
    match timeout(CONNECT, socket.connect(address)).await {
        Ok(connected) => {
            let socket = connected.map_err(failed)?;
            let _ = socket.set_nodelay(true);
            Ok(socket)
        }
        Err(_) => Err(Error::Timeout {
            what: format!("connecting to {address} in the pod"),
            limit: CONNECT,
        }),
    }
}

/// A socket of the network namespace that is pinned on `path`.
fn socket_in(path: PathBuf, address: SocketAddr) -> Result<TcpSocket> {
    let namespace = File::open(&path).at("open the network namespace", &path)?;
    let made = thread::disposable("netns", || {
        ns::enter(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        socket(address)
    });
    made.flatten().at("make a socket in", &path)
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}
