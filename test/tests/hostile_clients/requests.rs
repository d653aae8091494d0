//! Before the upgrade: requests without end, URLs that are not good, and more clients than there is room for.

use std::io::Write;

use corten_test::{streams, wait::until};
use tonic::Code;

use super::{
    site::{Site, drip, head, rest},
    websocket_client::{Client, V5},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_byte_by_byte_is_cut_off() {
    let mut site = Site::new(&[]).await;
    let url = site.exec("true").await;
    let mut socket = site.connect(&url);
    socket.write_all(b"POST / HTTP/1.1\r\nA: ").unwrap();
    drip(&socket, b'a');
    rest(&mut socket);
    site.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_have_a_size() {
    let mut site = Site::new(&[]).await;
    let url = site.exec("true").await;
    let header = format!("A: {}\r\n", "a".repeat(1000));
    let (_, answer) = site.request(&url, &header.repeat(60));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    site.unharmed().await;
}

/// They hold no place of a session, and each further one costs the oldest its place.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_say_nothing_keep_nobody_out() {
    let mut site = Site::new(&["--max-stream-sessions=2"]).await;
    let url = site.exec("cat").await;
    let mut silent = Vec::new();
    for _ in 0..800 {
        let mut socket = site.connect(&url);
        let _ = socket.write_all(b"POST / HTTP/1.1\r\nA: ");
        drip(&socket, b'a');
        silent.push(socket);
    }
    let mut good = Client::upgrade(&site, &url, V5);
    good.frame(0x82, b"\0still served");
    assert_eq!(good.receive(1, 12), "still served");
    let held = site.further_descriptors();
    assert!(held < 600, "{held}");
    drop((good, silent));
    site.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_too_many_sessions_is_told_and_keeps_the_url() {
    let mut site = Site::new(&["--max-stream-sessions=2"]).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(Client::exec(&mut site, "sleep 3600", V5).await);
    }
    let url = site.exec("echo in").await;
    let (mut client, answer) = Client::try_upgrade(&site, &url, V5);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let text = String::from_utf8(rest(&mut client.socket)).unwrap();
    assert!(text.contains("streaming.max_sessions"), "{text}");
    drop(open.pop());
    let mut client = until(|| async {
        let (client, answer) = Client::try_upgrade(&site, &url, V5);
        let is_in = answer.starts_with("HTTP/1.1 101 ");
        is_in.then_some(client).ok_or(answer)
    })
    .await
    .unwrap();
    assert_eq!(client.receive(1, 3), "in\n");
    drop((client, open));
    site.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_that_are_not_good_are_answered_alike() {
    let mut site = Site::new(&[]).await;
    let used = site.exec("true").await;
    drop(Client::upgrade(&site, &used, V5));
    let other_kind = site.exec("true").await.replace("/exec/", "/attach/");
    let (base, token) = used.rsplit_once('/').unwrap();
    let guess = format!("{base}/{}", "0".repeat(token.len()));
    let mut answers = Vec::new();
    for url in [
        &used,
        &other_kind,
        &guess,
        base,
        &format!("{used}/x"),
        &format!("{base}/"),
    ] {
        let (mut client, head) = Client::try_upgrade(&site, url, V5);
        let head: Vec<_> = head
            .lines()
            .filter(|line| !line.starts_with("date:"))
            .collect();
        answers.push((head.join("\n"), rest(&mut client.socket)));
    }
    assert!(answers[0].0.starts_with("HTTP/1.1 404 "), "{answers:?}");
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    // The guesses have cost nobody a URL.
    let good = site.exec("echo in").await;
    for _ in 0..500 {
        let mut socket = site.connect(&good);
        let path = format!("/exec/{}", "f".repeat(32));
        let _ = write!(socket, "POST {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        assert!(head(&mut socket).starts_with("HTTP/1.1 404 "));
    }
    assert_eq!(Client::upgrade(&site, &good, V5).receive(1, 3), "in\n");
    site.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_urls_that_nobody_uses_are_bounded() {
    let mut site = Site::new(&[]).await;
    let memory = site.memory();
    let request = streams::exec_request(&site.container, "true");
    let mut given = Vec::new();
    for _ in 0..10_000 {
        match site.runtime.exec(request.clone()).await {
            Ok(answer) => given.push(answer.into_inner().url),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
    }
    assert_eq!(given.len(), 1000);
    let grown = site.memory().saturating_sub(memory);
    assert!(grown < 16, "{grown} MiB");
    // One that is used makes room; the session's own is the one that `unharmed` asks for.
    for url in given {
        drop(Client::upgrade(&site, &url, V5));
    }
    site.unharmed().await;
}
