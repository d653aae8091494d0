//! A client that says what it likes, byte by byte.

use bytes::{Buf, BufMut, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{
    frame::{Decoder, Frame},
    headers::{DICTIONARY, Headers, Inflater},
    *,
};

const SETTINGS: Settings = Settings {
    idle_timeout: std::time::Duration::from_secs(60),
    max_streams: 4,
};

struct Client {
    io: DuplexStream,
    compress: Compress,
    decoder: Decoder,
    inflater: Inflater,
    buffer: BytesMut,
}

fn session() -> (Client, Session, Incoming) {
    let (io, server) = duplex(64 << 10);
    let (session, incoming) = Session::start(server, &[], SETTINGS, std::future::pending());
    let mut compress = Compress::new(Compression::default(), true);
    compress.set_dictionary(&DICTIONARY).unwrap();
    let client = Client {
        io,
        compress,
        decoder: Decoder::default(),
        inflater: Inflater::new(),
        buffer: BytesMut::new(),
    };
    (client, session, incoming)
}

impl Client {
    fn block(&mut self, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(u32::try_from(pairs.len()).unwrap());
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).unwrap());
            plain.put_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 1024);
        self.compress
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .unwrap();
        block
    }

    async fn control(&mut self, kind: u32, flags: u8, body: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_u32(0x8003_0000 | kind);
        frame.put_u32(u32::from(flags) << 24 | u32::try_from(body.len()).unwrap());
        frame.put_slice(body);
        self.io.write_all(&frame).await.unwrap();
    }

    async fn open(&mut self, stream: u32, pairs: &[(&str, &str)], flags: u8) {
        let mut body = Vec::new();
        body.put_u32(stream);
        body.put_u32(0);
        body.put_u16(0);
        body.extend(self.block(pairs));
        self.control(1, flags, &body).await;
    }

    async fn data(&mut self, stream: u32, data: &[u8], flags: u8) {
        let mut frame = BytesMut::new();
        frame.put_u32(stream);
        frame.put_u32(u32::from(flags) << 24 | u32::try_from(data.len()).unwrap());
        frame.put_slice(data);
        self.io.write_all(&frame).await.unwrap();
    }

    async fn words(&mut self, kind: u32, words: &[u32]) {
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.control(kind, 0, &body).await;
    }

    /// The next frame, apart from what is said of windows.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.decode(&mut self.buffer).unwrap() {
                Some(Frame::Settings { .. } | Frame::WindowUpdate { .. }) => {}
                Some(frame) => return Some(frame),
                None if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 => return None,
                None => {}
            }
        }
    }

    async fn reply(&mut self, stream: u32) {
        let Some(Frame::SynReply { stream: of, block }) = self.next().await else {
            panic!("no SYN_REPLY");
        };
        assert_eq!(of, stream);
        assert_eq!(self.inflater.read(&block).unwrap(), Headers::default());
    }

    /// What comes of the stream until it is finished.
    async fn receive(&mut self, stream: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next().await.unwrap() {
                Frame::Data {
                    stream: of,
                    fin,
                    data,
                } if of == stream => {
                    all.extend_from_slice(&data);
                    if fin {
                        return all;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn streams_have_headers_and_end_one_way_at_a_time() {
    let (mut client, session, mut incoming) = session();
    for (id, kind) in [(1, "stdin"), (3, "stdout")] {
        client
            .open(id, &[("streamtype", kind), ("empty", "")], 0)
            .await;
        let new = incoming.next().await.unwrap();
        assert_eq!((new.id, new.headers.get("streamtype")), (id, Some(kind)));
        assert_eq!(
            (new.headers.get("empty"), new.headers.get("other")),
            (Some(""), None)
        );
        let (mut receiver, sender) = new.accept().unwrap();
        client.reply(id).await;
        client.data(id, b"to the server", 0).await;
        client.data(id, b"", 1).await;
        assert_eq!(receiver.receive().await, Ok(Some("to the server".into())));
        assert_eq!(receiver.receive().await, Ok(None));
        sender.send("to the client".into()).await.unwrap();
        sender.finish().await.unwrap();
        assert_eq!(client.receive(id).await, b"to the client");
    }
    session.close().await;
    assert_eq!(client.next().await, Some(Frame::GoAway));
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn a_reset_is_of_one_stream() {
    let (mut client, _session, mut incoming) = session();
    let mut halves = Vec::new();
    for id in [1, 3, 5] {
        client.open(id, &[], 0).await;
        halves.push(incoming.next().await.unwrap().accept().unwrap());
        client.reply(id).await;
    }
    client.words(3, &[1, 5]).await;
    let (mut receiver, sender) = halves.remove(0);
    assert_eq!(receiver.receive().await, Err(Broken::Reset));
    assert_eq!(sender.send("late".into()).await, Err(Broken::Reset));
    // One that nobody wants any more.
    drop(halves.remove(0));
    assert_eq!(client.next().await, Some(Frame::RstStream { stream: 3 }));
    client.data(3, b"on its way", 0).await;
    client.data(5, b"and this goes on", 1).await;
    let (mut receiver, sender) = halves.remove(0);
    assert_eq!(
        receiver.receive().await,
        Ok(Some("and this goes on".into()))
    );
    sender.send("so does this".into()).await.unwrap();
    sender.finish().await.unwrap();
    assert_eq!(client.receive(5).await, b"so does this");
}

#[tokio::test]
async fn a_client_that_names_a_window_is_sent_no_more() {
    let (mut client, _session, mut incoming) = session();
    client.words(4, &[1, 7, 10]).await;
    client.open(1, &[], 0).await;
    let (_receiver, sender) = incoming.next().await.unwrap().accept().unwrap();
    client.reply(1).await;
    let sending = tokio::spawn(async move {
        sender.send("0123456789abcdef".into()).await.unwrap();
        sender.finish().await.unwrap();
    });
    let data = |text: &'static str, fin| {
        let data = text.into();
        Some(Frame::Data {
            stream: 1,
            fin,
            data,
        })
    };
    assert_eq!(client.next().await, data("0123456789", false));
    assert!(!sending.is_finished());
    // Pings are answered meanwhile, and nothing more comes.
    client.words(6, &[7]).await;
    assert_eq!(client.next().await, Some(Frame::Ping { id: 7 }));
    client.words(9, &[1, 4]).await;
    assert_eq!(client.next().await, data("abcd", false));
    client.words(9, &[1, 100]).await;
    assert_eq!(client.next().await, data("ef", false));
    assert_eq!(client.next().await, data("", true));
    sending.await.unwrap();
}

#[tokio::test]
async fn a_client_without_windows_gets_everything() {
    let (mut client, _session, mut incoming) = session();
    client.open(1, &[], 1).await;
    let (_receiver, sender) = incoming.next().await.unwrap().accept().unwrap();
    client.reply(1).await;
    let all = vec![b'x'; 1 << 20];
    let sent = all.clone();
    tokio::spawn(async move {
        sender.send(sent.into()).await.unwrap();
        sender.finish().await.unwrap();
    });
    assert_eq!(client.receive(1).await, all);
}

#[tokio::test]
async fn what_nobody_takes_stays_with_the_client() {
    let (mut client, _session, mut incoming) = session();
    client.open(1, &[], 0).await;
    let (mut receiver, _sender) = incoming.next().await.unwrap().accept().unwrap();
    client.reply(1).await;
    let (mut read, mut write) = tokio::io::split(client.io);
    let total = 8 << 20;
    let sending = tokio::spawn(async move {
        let mut frame = BytesMut::new();
        frame.put_u32(1);
        frame.put_u32(total);
        frame.resize(8 + usize::try_from(total).unwrap(), 0);
        let mut sent = 0;
        while frame.has_remaining() {
            let length = write.write(&frame).await.unwrap();
            frame.advance(length);
            sent += length;
        }
        sent
    });
    // Updates of windows are read, so that the session has no reason to wait but the one.
    tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!sending.is_finished());
    let mut received = 0;
    while received < total {
        let data = receiver.receive().await.unwrap().unwrap();
        received += u32::try_from(data.len()).unwrap();
    }
    assert_eq!(sending.await.unwrap(), 8 + usize::try_from(total).unwrap());
}

#[tokio::test]
async fn too_many_streams_are_refused_and_so_are_unwanted_ones() {
    let (mut client, _session, mut incoming) = session();
    let mut open = Vec::new();
    for id in [1, 3, 5, 7, 9] {
        client.open(id, &[("n", "v")], 0).await;
        if id < 9 {
            open.push(incoming.next().await.unwrap());
        }
    }
    assert_eq!(client.next().await, Some(Frame::RstStream { stream: 9 }));
    drop(open.pop());
    assert_eq!(client.next().await, Some(Frame::RstStream { stream: 7 }));
    client.open(11, &[("n", "v")], 0).await;
    assert_eq!(incoming.next().await.unwrap().headers.get("n"), Some("v"));
}

/// Whatever its windows are, nobody waits for them.
#[tokio::test]
async fn a_stream_in_one_direction_takes_nothing() {
    let (mut client, _session, mut incoming) = session();
    client.words(4, &[1, 7, 0]).await;
    client.open(1, &[], 2).await;
    let (mut receiver, sender) = incoming.next().await.unwrap().accept().unwrap();
    client.data(1, b"in", 1).await;
    assert_eq!(receiver.receive().await.unwrap().unwrap(), "in");
    assert_eq!(receiver.receive().await.unwrap(), None);
    assert_eq!(sender.send("out".into()).await, Err(Broken::OneWay));
    assert_eq!(sender.finish().await, Ok(()));
}

#[tokio::test]
async fn who_still_receives_is_told_that_the_stream_is_given_up() {
    let (mut client, _session, mut incoming) = session();
    client.open(1, &[], 0).await;
    let (mut receiver, sender) = incoming.next().await.unwrap().accept().unwrap();
    drop(sender);
    assert_eq!(receiver.receive().await, Err(Broken::Reset));
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_do_not_pile_up() {
    let (mut client, _session, mut incoming) = session();
    for id in (1..200).step_by(2) {
        client.open(id, &[], 0).await;
        client.words(3, &[id, 5]).await;
    }
    client.words(6, &[7]).await;
    while client.next().await.unwrap() != (Frame::Ping { id: 7 }) {}
    drop(client);
    let mut kept = 0;
    while incoming.next().await.is_some() {
        kept += 1;
    }
    assert_eq!(kept, SETTINGS.max_streams);
}

/// Data is taken as long as it comes, whatever the client reads of what it may send.
#[tokio::test]
async fn news_of_windows_that_nobody_reads_are_no_flood() {
    let (mut client, _session, mut incoming) = session();
    client.open(1, &[], 0).await;
    let (mut receiver, sender) = incoming.next().await.unwrap().accept().unwrap();
    // What is on its way to the client from now on, it does not read.
    tokio::spawn(async move { sender.send(vec![0; 1 << 20].into()).await });
    let total = 160 << 20;
    tokio::spawn(async move {
        let piece = vec![0; 128 << 10];
        for _ in 0..total / piece.len() {
            client.data(1, &piece, 0).await;
        }
        client.data(1, b"", 1).await;
        client
    });
    let mut received = 0;
    while let Some(data) = receiver.receive().await.unwrap() {
        received += data.len();
    }
    assert_eq!(received, total);
}

#[tokio::test]
async fn violations_end_the_session() {
    type Say = fn(&mut Client) -> Vec<u8>;
    let cases: &[(&str, Say)] = &[
        ("an even stream", |_| syn(2, &[])),
        ("another version", |_| {
            [&[0x80, 2, 0, 6], &[0; 8][..]].concat()
        }),
        ("a control frame of 16 MiB", |_| {
            vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]
        }),
        ("no zlib", |_| syn(1, b"garbage, more of it")),
        ("data of stream 0", |_| vec![0; 8]),
        ("a bomb", |client| {
            let value = "a".repeat(1 << 20);
            let block = client.block(&[("a", &value)]);
            assert!(block.len() < 4 << 10);
            syn(1, &block)
        }),
        ("too many pairs", |client| {
            let names: Vec<_> = (0..100).map(|number| number.to_string()).collect();
            let pairs: Vec<_> = names.iter().map(|name| (&**name, "")).collect();
            let block = client.block(&pairs);
            syn(1, &block)
        }),
        ("a name twice", |client| {
            let block = client.block(&[("a", ""), ("A", "")]);
            syn(1, &block)
        }),
    ];
    for (what, say) in cases {
        let (mut client, _session, mut incoming) = session();
        let bytes = say(&mut client);
        client.io.write_all(&bytes).await.unwrap();
        assert_eq!(client.next().await, Some(Frame::GoAway), "{what}");
        assert_eq!(client.next().await, None, "{what}");
        assert!(incoming.next().await.is_none(), "{what}");
    }
}

fn syn(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3, 0, 1];
    frame.put_u32(u32::try_from(10 + block.len()).unwrap());
    frame.put_u32(stream);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(block);
    frame
}

#[tokio::test]
async fn a_client_that_goes_leaves_what_it_has_sent() {
    let (mut client, _session, mut incoming) = session();
    client.open(1, &[], 0).await;
    let (mut receiver, sender) = incoming.next().await.unwrap().accept().unwrap();
    client.reply(1).await;
    client.data(1, b"last words", 0).await;
    drop(client);
    assert_eq!(receiver.receive().await, Ok(Some("last words".into())));
    assert_eq!(receiver.receive().await, Err(Broken::Gone));
    assert_eq!(sender.send("late".into()).await, Err(Broken::Gone));
    assert!(incoming.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_ends() {
    let (mut client, _session, mut incoming) = session();
    assert!(incoming.next().await.is_none());
    assert_eq!(client.next().await, Some(Frame::GoAway));
    assert_eq!(client.next().await, None);
}
