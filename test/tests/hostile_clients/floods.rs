//! More than anybody takes: what a session holds for a slow side is bounded, whichever side that is.

use std::{
    io::{ErrorKind, Write},
    time::Duration,
};

use corten_test::wait::until;

use super::{
    site::Site,
    spdy_client::{self as spdy, INITIAL_WINDOW_SIZE, RST_STREAM, SETTINGS, STDIN, WINDOW_UPDATE},
    websocket_client::{self as websocket, V4},
};

/// MiB that a session may hold for a slow side, in all its buffers.
const HELD: usize = 24;

/// Bytes that a client tries to send to nobody.
const MOST: usize = 64 << 20;

/// Waits until the container's `head` writes no more, and fails when it has come to its end.
async fn until_it_waits(site: &Site) {
    let position = || {
        let script = "cat /proc/$(pgrep -x head)/io | sed -n 's/^wchar: //p'";
        site.node.shell(script).map(|text| text.trim().to_owned())
    };
    until(|| async {
        let before = position()?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after = position()?;
        anyhow::ensure!(before == after && before != "0", "{before}, then {after}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_its_command_alone() {
    let mut site = Site::new(&[]).await;
    let script = "head -c 268435456 /dev/zero";
    let memory = site.memory();
    // One that keeps no windows, one that names the widest, and one whose protocol has none.
    let unread = spdy::Client::exec(&mut site, script, None).await;
    until_it_waits(&site).await;
    drop(unread);
    site.unharmed().await;
    let mut unread = spdy::Client::exec(&mut site, script, None).await;
    unread.words(SETTINGS, &[1, INITIAL_WINDOW_SIZE, (1 << 31) - 1]);
    unread.words(WINDOW_UPDATE, &[0, 1 << 30]);
    until_it_waits(&site).await;
    drop(unread);
    site.unharmed().await;
    let unread = websocket::Client::exec(&mut site, script, V4).await;
    until_it_waits(&site).await;
    let grown = site.memory().saturating_sub(memory);
    assert!(grown < HELD, "{grown} MiB");
    drop(unread);
    site.unharmed().await;
}

/// Behind so much data a client's end is not seen: its session is over when nothing has come or gone for long enough.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_command_reads_stays_with_the_client() {
    let mut site = Site::new(&["--stream-idle-timeout=10"]).await;
    let memory = site.memory();
    // 32 KiB in a frame, as clients send them.
    let head = [STDIN.to_be_bytes(), (32_u32 << 10).to_be_bytes()].concat();
    let piece = [&head, &[0; 32 << 10][..]].concat();
    let by_spdy = spdy::Client::exec(&mut site, "sleep 3600", None).await;
    let sent = fill(&by_spdy.socket, &piece);
    assert!(sent < MOST, "{sent} bytes");
    let piece = websocket::frame(0x82, &[0; 32 << 10]);
    let by_websocket = websocket::Client::exec(&mut site, "sleep 3600", V4).await;
    let sent = fill(&by_websocket.socket, &piece);
    assert!(sent < MOST, "{sent} bytes");
    let grown = site.memory().saturating_sub(memory);
    assert!(grown < HELD, "{grown} MiB");
    drop((by_spdy, by_websocket));
    site.unharmed().await;
}

/// Writes until nothing is taken any more, for some time. Returns the bytes.
fn fill(mut socket: &std::net::TcpStream, piece: &[u8]) -> usize {
    socket
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut sent = 0;
    while sent < MOST {
        match socket.write(&piece[sent % piece.len()..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    sent
}

/// A command that has ended waits for its status to be taken; streams that are opened and reset meanwhile do not pile up.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_come_and_go_are_not_kept() {
    let mut site = Site::new(&[]).await;
    let mut client = spdy::Client::exec(&mut site, "touch /tmp/done", Some(0)).await;
    site.file("/tmp/done").await;
    let memory = site.memory();
    let value = "a".repeat(8 << 10);
    for number in 0..10_000 {
        let stream = 2 * number + 9;
        client.open(stream, &[("streamtype", &value)]);
        client.words(RST_STREAM, &[stream, 5]);
        if number % 100 == 0 {
            client.ping(stream);
        }
    }
    client.ping(1);
    let grown = site.memory().saturating_sub(memory);
    assert!(grown < HELD, "{grown} MiB");
    drop(client);
    site.unharmed().await;
}
