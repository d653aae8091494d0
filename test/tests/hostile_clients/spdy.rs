//! In SPDY: headers that inflate, lengths that lie, windows that overflow, streams without number.

use super::{
    site::{self, Site, drip},
    spdy_client::*,
};

type Attack<'a> = &'a dyn Fn(&mut Client);

#[tokio::test(flavor = "multi_thread")]
async fn violations_end_their_session_and_no_other() {
    let mut site = Site::new(&[]).await;
    let mut other = Client::exec(&mut site, "cat; echo end", None).await;
    let memory = site.memory();
    let bomb = "a".repeat(10 << 20);
    let most = (1 << 31) - 1;
    let attacks: [(&str, Attack<'_>); 9] = [
        ("headers that inflate", &|client| {
            client.open(9, &[("streamtype", "stdin"), ("bomb", &bomb)]);
        }),
        ("a control frame of 16 MiB", &|client| {
            client.announce(SYN_STREAM, (1 << 24) - 1)
        }),
        ("a ping of five bytes", &|client| {
            client.control(PING, &[0; 5])
        }),
        ("a stream without an id", &|client| {
            client.control(SYN_STREAM, &[0; 3])
        }),
        ("more settings than there are", &|client| {
            client.words(SETTINGS, &[2, 7, 1])
        }),
        ("a window of 2 GiB", &|client| {
            client.words(SETTINGS, &[1, 7, 1 << 31])
        }),
        ("windows that add up to it", &|client| {
            client.words(WINDOW_UPDATE, &[0, most]);
            client.words(WINDOW_UPDATE, &[0, most]);
        }),
        ("a stream's windows that do", &|client| {
            client.words(WINDOW_UPDATE, &[STDIN, most]);
            client.words(WINDOW_UPDATE, &[STDIN, most]);
        }),
        ("an even stream", &|client| {
            client.open(10, &[("streamtype", "stdin")])
        }),
    ];
    for (what, attack) in attacks {
        let mut client = Client::exec(&mut site, "sleep 3600", None).await;
        attack(&mut client);
        assert_eq!(client.rest().go_away, Some(1), "{what}");
    }
    let grown = site.memory().saturating_sub(memory);
    assert!(grown < 16, "{grown} MiB");
    other.data(STDIN, b"alive\n", true);
    assert_eq!(other.rest().text(STDOUT), "alive\nend\n");
    site.unharmed().await;
}

/// A frame that never comes to its end is given on as it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_frame_need_not_be_as_long_as_it_says() {
    let mut site = Site::new(&[]).await;
    let mut client = Client::exec(
        &mut site,
        "read line; echo got $line; exec sleep 3600",
        None,
    )
    .await;
    client.announce_data(STDIN, (1 << 24) - 1);
    client.write(b"this\n");
    let mut text = Vec::new();
    while text != b"got this\n" {
        if let Frame::Data {
            stream: STDOUT,
            data,
            ..
        } = client.next().unwrap()
        {
            text.extend(data);
        }
    }
    drop(client);
    site.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_session_are_bounded() {
    let mut site = Site::new(&[]).await;
    let url = site.forward().await;
    let mut client = Client::upgrade(&site, &url);
    let (mut accepted, mut refused) = (0, 0);
    for batch in 0..50 {
        for number in batch * 100..(batch + 1) * 100 {
            let id = number.to_string();
            let headers = [("streamtype", "error"), ("port", "80"), ("requestid", &id)];
            client.open(2 * number + 1, &headers);
        }
        while accepted + refused < (batch + 1) * 100 {
            match client.next().unwrap() {
                Frame::Control {
                    kind: SYN_REPLY, ..
                } => accepted += 1,
                Frame::Control {
                    kind: RST_STREAM, ..
                } => refused += 1,
                _ => {}
            }
        }
    }
    assert_eq!((accepted, refused), (4096, 904));
    drop(client);
    // A command has use for five.
    let mut client = Client::exec(&mut site, "cat", None).await;
    for number in 0..2000 {
        client.open(2 * number + 9, &[("streamtype", "more")]);
        let answer = client.next();
        assert!(
            matches!(
                answer,
                Some(Frame::Control {
                    kind: RST_STREAM,
                    ..
                })
            ),
            "{answer:?}"
        );
    }
    client.data(STDIN, b"goes on", true);
    assert_eq!(client.rest().text(STDOUT), "goes on");
    site.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_stream_leaves_the_others_alive() {
    let mut site = Site::new(&[]).await;
    let script = "read line; echo $line >&2; yes | head -c 100000; cat >&2; exit 4";
    let mut client = Client::exec(&mut site, script, None).await;
    client.words(RST_STREAM, &[STDOUT, 5]);
    client.data(STDIN, b"first\n", false);
    client.data(STDIN, b"second\n", true);
    let transcript = client.rest();
    assert_eq!(transcript.text(STDERR), "first\nsecond\n");
    assert_eq!(transcript.text(STDOUT), "");
    let status = transcript.text(ERROR);
    assert!(status.contains("exit status 4"), "{status}");
    // Of the input, it is its end.
    let mut client = Client::exec(&mut site, "cat; echo end", None).await;
    client.words(RST_STREAM, &[STDIN, 5]);
    assert_eq!(client.rest().text(STDOUT), "end\n");
    site.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_beyond_a_window() {
    let mut site = Site::new(&[]).await;
    let script = "echo output; touch /tmp/written; cat";
    let mut client = Client::exec(&mut site, script, Some(0)).await;
    site.file("/tmp/written").await;
    let is_data = |frame: &Frame| matches!(frame, Frame::Data { .. });
    for id in [1, 3, 5] {
        assert!(!client.ping(id).iter().any(is_data));
    }
    client.words(WINDOW_UPDATE, &[STDOUT, 4]);
    let data = |data: &[u8]| Frame::Data {
        stream: STDOUT,
        fin: false,
        data: data.into(),
    };
    assert_eq!(client.next(), Some(data(b"outp")));
    assert!(client.ping(7).is_empty());
    // The most that there is, for all streams: those that had nothing as well.
    client.words(SETTINGS, &[1, INITIAL_WINDOW_SIZE, (1 << 31) - 1]);
    assert_eq!(client.next(), Some(data(b"ut\n")));
    client.data(STDIN, b"goes on", true);
    let transcript = client.rest();
    assert_eq!(transcript.text(STDOUT), "goes on");
    assert!(transcript.text(ERROR).contains("Success"));
    site.unharmed().await;
}

/// One that comes byte by byte is not there; the session ends when its streams ought to be.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_streams_do_not_come_ends() {
    let mut site = Site::new(&["--stream-creation-timeout=2"]).await;
    let url = site.exec("true").await;
    let mut client = Client::upgrade(&site, &url);
    client.announce(SYN_STREAM, 10_000);
    drip(&client.socket, 0);
    site::rest(&mut client.socket);
    site.unharmed().await;
}
