//! A client of WebSockets that says anything. Its mask is zero, so that what it says is what is sent.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
};

use super::site::Site;

pub(super) const V4: &str = "v4.channel.k8s.io";
pub(super) const V5: &str = "v5.channel.k8s.io";
pub(super) const BASE64: &str = "base64.channel.k8s.io";
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// The first byte of a frame: its kind, and whether it is a message's last.
pub(super) const FIN: u8 = 0x80;
pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

pub(super) const MASKED: u8 = 0x80;

pub(super) struct Client {
    pub(super) socket: TcpStream,
}

impl Client {
    pub(super) fn upgrade(site: &Site, url: &str, protocol: &str) -> Self {
        match Self::try_upgrade(site, url, protocol) {
            (client, head) if head.starts_with("HTTP/1.1 101 ") => client,
            (_, head) => panic!("{head}"),
        }
    }

    /// With the answer's head.
    pub(super) fn try_upgrade(site: &Site, url: &str, protocol: &str) -> (Self, String) {
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n"
        );
        let (socket, head) = site.request(url, &headers);
        (Self { socket }, head)
    }

    pub(super) async fn exec(site: &mut Site, script: &str, protocol: &str) -> Self {
        let url = site.exec(script).await;
        Self::upgrade(site, &url, protocol)
    }

    pub(super) fn frame(&mut self, first: u8, payload: &[u8]) {
        self.write(&frame(first, payload));
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

    /// Kind and payload of the next frame; `None` at the end of the connection.
    pub(super) fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        match self.socket.read_exact(&mut head) {
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                panic!("nothing comes, and no end")
            }
            Err(_) => return None,
            Ok(()) => {}
        }
        let mut length = vec![
            0;
            match head[1] {
                126 => 2,
                127 => 8,
                _ => 0,
            }
        ];
        self.socket.read_exact(&mut length).ok()?;
        let length = match head[1] {
            126 | 127 => length
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.socket.read_exact(&mut payload).ok()?;
        Some((head[0] & 0xf, payload))
    }

    /// What comes on a channel until there are so many bytes.
    pub(super) fn receive(&mut self, channel: u8, bytes: usize) -> String {
        let mut text = Vec::new();
        while text.len() < bytes {
            match self.next().unwrap() {
                (BINARY, payload) if payload[0] == channel => text.extend(&payload[1..]),
                _ => {}
            }
        }
        String::from_utf8(text).unwrap()
    }

    /// The code that the server closes with. Fails when it does not, or leaves the connection open.
    pub(super) fn close_code(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((kind, payload)) = self.next() {
            if let (CLOSE, [high, low, ..]) = (kind, &*payload) {
                code = Some(u16::from_be_bytes([*high, *low]));
            }
        }
        code
    }
}

pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&announce(first, payload.len()), payload].concat()
}

/// The head of a frame.
pub(super) fn announce(first: u8, length: usize) -> Vec<u8> {
    let mut head = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => head.push(MASKED | short),
        (_, Ok(medium)) => {
            head.push(MASKED | 126);
            head.extend(medium.to_be_bytes());
        }
        _ => {
            head.push(MASKED | 127);
            head.extend(u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    head.extend([0; 4]);
    head
}
