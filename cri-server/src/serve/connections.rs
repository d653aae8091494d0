//! Connections of clients, each a task.
//!
//! hyper serves them, and not tonic's own server: that one also watches the deadline that a client sends along, and when it
//! is the faster of the two it answers `Cancelled`, where the kubelet has to see its own `DeadlineExceeded`.

use std::{future::Future, pin::pin, time::Duration};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::service::Routes;

use super::authority::Stream;

/// How long calls in flight may take to end: an exec may run for ever, and its client asks again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a client that could not be accepted, which stays where it is meanwhile.
const AGAIN: Duration = Duration::from_millis(10);

/// Serves until `ended` is ready, then lets the calls in flight end.
pub(super) async fn serve(listener: UnixListener, routes: Routes, ended: impl Future<Output = ()>) {
    let (drain, draining) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut ended = pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            // Taken off the list as they end.
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, routes.clone(), draining.clone()));
                }
                // Out of descriptors, for one: the next client may have more luck.
                Err(error) => {
                    tracing::warn!(%error, "a client could not be accepted");
                    sleep(AGAIN).await;
                }
            },
        }
    }
    drop(listener);
    drop(drain);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(PATIENCE, ended).await.is_err() {
        tracing::info!("calls are cut off that go on for long");
    }
}

async fn connection(stream: UnixStream, routes: Routes, mut draining: watch::Receiver<()>) {
    let service = TowerToHyperService::new(routes);
    let connection = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(Stream::new(stream)), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        _ = draining.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection broke");
    }
}
