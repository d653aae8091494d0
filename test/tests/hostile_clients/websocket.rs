//! In WebSockets: messages without end, frames that are none, channels that are not there, pings.

use super::{
    site::{Site, drip, rest},
    websocket_client::*,
};

const TOO_BIG: u16 = 1009;
const UNSUPPORTED: u16 = 1003;
const NOT_UTF8: u16 = 1007;
const PROTOCOL_ERROR: u16 = 1002;

#[tokio::test(flavor = "multi_thread")]
async fn violations_are_told_by_their_code() {
    let mut site = Site::new(&[]).await;
    let memory = site.memory();
    let fragments = [
        frame(BINARY, &[0; 1000]),
        frame(CONTINUATION, &[0; 1000]).repeat(2000),
    ]
    .concat();
    let cases = [
        ("1 GiB", V4, announce(FIN | BINARY, 1 << 30), TOO_BIG),
        (
            "1 GiB of a ping",
            V4,
            announce(FIN | PING, 1 << 30),
            TOO_BIG,
        ),
        ("fragments without end", V5, fragments, TOO_BIG),
        (
            "text on binary channels",
            V4,
            frame(FIN | TEXT, b"0"),
            UNSUPPORTED,
        ),
        (
            "bytes on text channels",
            BASE64,
            frame(FIN | BINARY, b"0"),
            UNSUPPORTED,
        ),
        (
            "text that is none",
            BASE64,
            frame(FIN | TEXT, &[0xff]),
            NOT_UTF8,
        ),
        (
            "no base64",
            BASE64,
            frame(FIN | TEXT, b"0?"),
            PROTOCOL_ERROR,
        ),
        ("no mask", V4, vec![FIN | BINARY, 0], PROTOCOL_ERROR),
        ("an unknown kind", V4, frame(FIN | 11, b""), PROTOCOL_ERROR),
        (
            "a reserved bit",
            V4,
            frame(FIN | 0x40 | BINARY, b"0"),
            PROTOCOL_ERROR,
        ),
        (
            "a long ping",
            V4,
            frame(FIN | PING, &[0; 126]),
            PROTOCOL_ERROR,
        ),
        ("a ping in pieces", V4, frame(PING, b""), PROTOCOL_ERROR),
        (
            "the rest of nothing",
            V4,
            frame(FIN | CONTINUATION, b""),
            PROTOCOL_ERROR,
        ),
        (
            "the end of no channel",
            V5,
            frame(FIN | BINARY, &[255]),
            PROTOCOL_ERROR,
        ),
    ];
    for (what, protocol, attack, code) in cases {
        let mut client = Client::exec(&mut site, "sleep 3600", protocol).await;
        client.write(&attack);
        assert_eq!(client.close_code(), Some(code), "{what}");
    }
    let grown = site.memory().saturating_sub(memory);
    assert!(grown < 16, "{grown} MiB");
    site.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn violations_in_a_tunnel_are_told_by_their_code() {
    let mut site = Site::new(&[]).await;
    for (attack, code) in [
        (announce(FIN | BINARY, 1 << 30), TOO_BIG),
        (frame(FIN | TEXT, b""), UNSUPPORTED),
    ] {
        let url = site.forward().await;
        let mut client = Client::upgrade(&site, &url, TUNNEL);
        client.write(&attack);
        assert_eq!(client.close_code(), Some(code));
    }
    site.unharmed().await;
}

/// As the kubelet's own server does.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_no_channel_is_dropped() {
    let mut site = Site::new(&[]).await;
    let mut client = Client::exec(&mut site, "cat", V5).await;
    for channel in [1, 2, 3, 4, 5, 9, 254] {
        client.frame(FIN | BINARY, &[channel, b'x']);
        client.frame(FIN | BINARY, &[255, channel]);
    }
    client.frame(FIN | BINARY, b"");
    client.frame(FIN | BINARY, b"\0goes on");
    assert_eq!(client.receive(1, 7), "goes on");
    client.frame(FIN | BINARY, &[255, 0]);
    assert_eq!(client.close_code(), Some(1000));
    site.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_answered() {
    let mut site = Site::new(&[]).await;
    let mut client = Client::exec(&mut site, "sleep 3600", V4).await;
    client.frame(FIN | CLOSE, &1001_u16.to_be_bytes());
    assert_eq!(client.close_code(), Some(1001));
    site.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_that_nobody_reads_the_answers_of_are_bounded() {
    let mut site = Site::new(&[]).await;
    let mut client = Client::exec(&mut site, "cat", V4).await;
    let memory = site.memory();
    let pings = frame(FIN | PING, &[0; 125]).repeat(1000);
    for _ in 0..500 {
        client.write(&pings);
    }
    client.frame(FIN | PING, b"the last");
    let grown = site.memory().saturating_sub(memory);
    assert!(grown < 16, "{grown} MiB");
    while client.next().unwrap() != (PONG, b"the last".to_vec()) {}
    client.frame(FIN | BINARY, b"\0goes on");
    assert_eq!(client.receive(1, 7), "goes on");
    drop(client);
    site.unharmed().await;
}

/// Half a frame is no message, however long it goes on: it holds a session's place as a silent client does, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_sessions_end() {
    let options = ["--max-stream-sessions=2", "--stream-idle-timeout=10"];
    let mut site = Site::new(&options).await;
    let mut slow = Client::exec(&mut site, "cat", V4).await;
    slow.write(&announce(FIN | BINARY, 1000));
    drip(&slow.socket, 0);
    let mut silent = Client::exec(&mut site, "sleep 3600", V4).await;
    let url = site.exec("true").await;
    let (_, answer) = Client::try_upgrade(&site, &url, V4);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    rest(&mut silent.socket);
    rest(&mut slow.socket);
    site.unharmed().await;
}
