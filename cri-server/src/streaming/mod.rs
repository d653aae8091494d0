//! Exec, attach and port-forward: an RPC gives a URL, and whoever comes by it gets a session, in SPDY or by WebSocket.
//!
//! Source: CRI, Exec, Attach and PortForward; the protocols are those of Kubernetes' `k8s.io/streaming` and
//! `k8s.io/cri-streaming`, which no document but their code describes.

mod activity;
mod attach;
mod copy;
mod exec;
mod handshake;
mod io;
mod port_forward;
mod remote_command;
mod server;
mod spdy;
mod terminal;
mod tls;
mod tokens;
mod websocket;

pub(crate) use self::{
    remote_command::Wanted,
    server::{Listener, serve},
    tokens::{Request, Tokens},
};
