//! Opening a command's streams: all those that the request names, and the error stream.

use std::{io, time::Duration};

use tokio::time::timeout;

use super::{Connection, Ends, Input, Output, Sizes, Wanted, status};
use crate::streaming::{
    handshake::Agreed,
    server::Client,
    spdy::{self, Receiver, Sender},
    websocket,
};

/// SPDY streams of a command, with room for a client's mistakes.
const MAX_STREAMS: usize = 16;
/// WebSocket channels, by their numbers.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// A client whose streams are there.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) ends: Ends,
    pub(super) status: status::Writer,
    pub(super) connection: Connection,
}

/// Why a client that came by its URL has no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("it has not opened its streams within {0:?} (streaming.creation_timeout)")]
    Slow(Duration),
    #[error("it went before it had opened its streams")]
    Gone,
    #[error("its connection cannot be watched: {0}")]
    Watch(#[from] io::Error),
}

/// Waits for the streams that `wanted` names.
pub(super) async fn open(
    client: Client,
    wanted: Wanted,
    idle_timeout: Duration,
    creation_timeout: Duration,
) -> Result<Opened, Error> {
    match client.agreed {
        Agreed::Spdy(protocol) => {
            let gone = client.io.gone()?;
            let settings = spdy::Settings {
                idle_timeout,
                max_streams: MAX_STREAMS,
            };
            let (session, incoming) =
                spdy::Session::start(client.io, &client.unread, settings, gone);
            let opening = by_spdy(session, incoming, version(protocol), wanted);
            let opened = timeout(creation_timeout, opening).await;
            opened.unwrap_or(Err(Error::Slow(creation_timeout)))
        }
        Agreed::WebSocket(protocol) => by_websocket(client, protocol, wanted, idle_timeout).await,
    }
}

/// 1 where the name has none.
fn version(protocol: &str) -> u8 {
    let digit = protocol.strip_prefix('v').and_then(|rest| rest.get(..1));
    digit.and_then(|digit| digit.parse().ok()).unwrap_or(1)
}

async fn by_spdy(
    session: spdy::Session,
    mut incoming: spdy::Incoming,
    version: u8,
    wanted: Wanted,
) -> Result<Opened, Error> {
    let mut named = vec!["error"];
    named.extend(wanted.stdin.then_some("stdin"));
    named.extend(wanted.stdout.then_some("stdout"));
    named.extend(wanted.stderr.then_some("stderr"));
    named.extend((wanted.tty && version >= 3).then_some("resize"));
    let mut open: Vec<(&str, Option<(Receiver, Sender)>)> =
        named.into_iter().map(|name| (name, None)).collect();
    while open.iter().any(|(_, halves)| halves.is_none()) {
        let stream = incoming.next().await.ok_or(Error::Gone)?;
        let kind = stream.headers.get("streamtype").unwrap_or_default();
        // One that is not wanted, or there already, is refused.
        let place = open
            .iter_mut()
            .find(|(name, halves)| *name == kind && halves.is_none());
        if let Some((_, halves)) = place {
            *halves = stream.accept();
        }
    }
    let mut take = |name: &str| {
        let place = open.iter_mut().find(|(known, _)| *known == name);
        place.and_then(|(_, halves)| halves.take())
    };
    let output = |halves: (Receiver, Sender)| Output::Spdy(halves.1);
    let input = |(receiver, _sender): (Receiver, Sender)| Input::Spdy { receiver, _sender };
    let error = take("error").map(output);
    Ok(Opened {
        ends: Ends {
            stdin: take("stdin").map(input),
            stdout: take("stdout").map(output),
            stderr: take("stderr").map(output),
            sizes: take("resize").map(input).map(Sizes::new),
        },
        status: status::Writer {
            stream: error.filter(|_| version > 1),
            is_json: version >= 4,
        },
        connection: Connection::Spdy(session, incoming),
    })
}

async fn by_websocket(
    client: Client,
    protocol: &str,
    wanted: Wanted,
    idle_timeout: Duration,
) -> Result<Opened, Error> {
    let version = version(protocol);
    let mut inputs = Vec::new();
    inputs.extend(wanted.stdin.then_some(STDIN));
    inputs.extend(wanted.tty.then_some(RESIZE));
    let settings = websocket::Settings {
        idle_timeout,
        is_base64: protocol.contains("base64"),
        can_close_channels: version >= 5,
    };
    let gone = client.io.gone()?;
    let (session, mut receivers) =
        websocket::Session::start(client.io, &client.unread, settings, &inputs, gone).await;
    let mut take = |channel| {
        let place = receivers
            .iter()
            .position(|receiver| receiver.channel == channel);
        place.map(|place| Input::WebSocket(receivers.swap_remove(place)))
    };
    let output = |channel| Output::WebSocket(session.sender(channel));
    let opened = Opened {
        ends: Ends {
            stdin: take(STDIN),
            stdout: wanted.stdout.then(|| output(STDOUT)),
            stderr: wanted.stderr.then(|| output(STDERR)),
            sizes: take(RESIZE).map(Sizes::new),
        },
        status: status::Writer {
            stream: Some(output(ERROR)),
            is_json: version >= 4,
        },
        connection: Connection::WebSocket(session),
    };
    // Clients take an empty message for the sign that the connection stands.
    let first = [
        &opened.ends.stdout,
        &opened.ends.stderr,
        &opened.status.stream,
    ];
    if let Some(output) = first.into_iter().flatten().next() {
        output
            .send(bytes::Bytes::new())
            .await
            .map_err(|_broken| Error::Gone)?;
    }
    Ok(opened)
}
