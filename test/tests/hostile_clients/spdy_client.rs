//! A client of SPDY/3.1 that says anything.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
};

use flate2::{Compress, Compression, FlushCompress};

use super::site::Site;

pub(super) const SYN_STREAM: u32 = 1;
pub(super) const SYN_REPLY: u32 = 2;
pub(super) const RST_STREAM: u32 = 3;
pub(super) const SETTINGS: u32 = 4;
pub(super) const PING: u32 = 6;
pub(super) const GOAWAY: u32 = 7;
pub(super) const WINDOW_UPDATE: u32 = 9;
/// The setting of that name.
pub(super) const INITIAL_WINDOW_SIZE: u32 = 7;

/// The streams of a command, by number.
pub(super) const ERROR: u32 = 1;
pub(super) const STDIN: u32 = 3;
pub(super) const STDOUT: u32 = 5;
pub(super) const STDERR: u32 = 7;

/// What zlib begins with when there is a dictionary, and SPDY's checksum. What follows need not make use of it.
const ZLIB_HEAD: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];

pub(super) struct Client {
    pub(super) socket: TcpStream,
    deflate: Compress,
    is_first: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    Control {
        kind: u32,
        body: Vec<u8>,
    },
    Data {
        stream: u32,
        fin: bool,
        data: Vec<u8>,
    },
}

/// What a session has sent up to its end.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    pub(super) data: HashMap<u32, Vec<u8>>,
    /// Its status.
    pub(super) go_away: Option<u32>,
}

impl Transcript {
    pub(super) fn text(&self, stream: u32) -> String {
        let data = self.data.get(&stream).cloned().unwrap_or_default();
        String::from_utf8(data).unwrap()
    }
}

impl Client {
    /// A session with this URL, without any stream.
    pub(super) fn upgrade(site: &Site, url: &str) -> Self {
        let version = match url.contains("/portforward/") {
            true => "portforward.k8s.io",
            false => "v4.channel.k8s.io",
        };
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {version}\r\n"
        );
        let (socket, head) = site.request(url, &headers);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self {
            socket,
            deflate: Compress::new(Compression::best(), false),
            is_first: true,
        }
    }

    /// A command with all its streams, which the client has first sent `settings` for.
    pub(super) async fn exec(site: &mut Site, script: &str, initial_window: Option<u32>) -> Self {
        let url = site.exec(script).await;
        let mut client = Self::upgrade(site, &url);
        if let Some(window) = initial_window {
            client.words(SETTINGS, &[1, INITIAL_WINDOW_SIZE, window]);
        }
        for (stream, kind) in [
            (ERROR, "error"),
            (STDIN, "stdin"),
            (STDOUT, "stdout"),
            (STDERR, "stderr"),
        ] {
            client.open(stream, &[("streamtype", kind)]);
        }
        let mut replies = 0;
        while replies < 4 {
            let frame = client.next().unwrap();
            replies += i32::from(matches!(
                frame,
                Frame::Control {
                    kind: SYN_REPLY,
                    ..
                }
            ));
        }
        client
    }

    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let mut body = [&stream.to_be_bytes()[..], &[0; 6]].concat();
        body.extend(self.block(headers));
        self.control(SYN_STREAM, &body);
    }

    /// Headers as they are sent.
    fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = length(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(length(text.len()));
            plain.extend(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 1024);
        if std::mem::take(&mut self.is_first) {
            block.extend(ZLIB_HEAD);
        }
        self.deflate
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .unwrap();
        block
    }

    pub(super) fn control(&mut self, kind: u32, body: &[u8]) {
        self.announce(kind, body.len());
        self.write(body);
    }

    pub(super) fn words(&mut self, kind: u32, words: &[u32]) {
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.control(kind, &body);
    }

    /// The head of a control frame.
    pub(super) fn announce(&mut self, kind: u32, bytes: usize) {
        let word = 0x8003_0000 | kind;
        self.write(&[word.to_be_bytes(), length(bytes)].concat());
    }

    pub(super) fn data(&mut self, stream: u32, data: &[u8], fin: bool) {
        let mut head = [stream.to_be_bytes(), length(data.len())].concat();
        head[4] = u8::from(fin);
        self.write(&[&head, data].concat());
    }

    /// The head of a data frame.
    pub(super) fn announce_data(&mut self, stream: u32, bytes: usize) {
        self.write(&[stream.to_be_bytes(), length(bytes)].concat());
    }

    /// What the other side has closed is not an error.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        match self.socket.write_all(bytes) {
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                panic!("the daemon does not read")
            }
            _ => {}
        }
    }

    /// The next frame; `None` at the end of the connection.
    pub(super) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 8];
        match self.socket.read_exact(&mut head) {
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                panic!("nothing comes, and no end")
            }
            Err(_) => return None,
            Ok(()) => {}
        }
        let [first, second, third, fourth, flags, rest @ ..] = head;
        let word = u32::from_be_bytes([first, second, third, fourth]);
        let [high, middle, low] = rest.map(usize::from);
        let mut body = vec![0; high << 16 | middle << 8 | low];
        self.socket.read_exact(&mut body).ok()?;
        Some(match word >> 31 {
            0 => Frame::Data {
                stream: word,
                fin: flags & 1 != 0,
                data: body,
            },
            _ => Frame::Control {
                kind: word & 0xffff,
                body,
            },
        })
    }

    /// Sends a ping, and returns what came before its answer.
    pub(super) fn ping(&mut self, id: u32) -> Vec<Frame> {
        self.words(PING, &[id]);
        let mut frames = Vec::new();
        loop {
            match self.next().unwrap() {
                Frame::Control { kind: PING, body } if body == id.to_be_bytes() => return frames,
                frame => frames.push(frame),
            }
        }
    }

    pub(super) fn rest(&mut self) -> Transcript {
        let mut transcript = Transcript::default();
        while let Some(frame) = self.next() {
            match frame {
                Frame::Data { stream, data, .. } => {
                    transcript.data.entry(stream).or_default().extend(data);
                }
                Frame::Control { kind: GOAWAY, body } => {
                    transcript.go_away = body.last().copied().map(u32::from);
                }
                Frame::Control { .. } => {}
            }
        }
        transcript
    }
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap().to_be_bytes()
}
