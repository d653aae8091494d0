//! From an HTTP request to a session: which protocols both sides know.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    header::{
        CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub(super) type Answer = Response<Full<Bytes>>;

/// SPDY's subprotocols ride on headers of their own.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";
const WEBSOCKET: &str = "websocket";

/// What a kind of session can be spoken in, best first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) spdy: &'static [&'static str],
    /// An empty one stands for clients that name none.
    pub(super) websocket: &'static [&'static str],
}

/// What both sides have agreed on: the subprotocol's name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Agreed {
    Spdy(&'static str),
    WebSocket(&'static str),
}

/// Why there is no session.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    text: String,
    /// Subprotocols of SPDY that would do.
    accepted: &'static [&'static str],
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            accepted: &[],
        }
    }

    pub(super) fn answer(self) -> Answer {
        let mut answer = plain(self.status, self.text);
        for name in self.accepted {
            let value = HeaderValue::from_static(name);
            answer.headers_mut().append(ACCEPTED_VERSIONS, value);
        }
        answer
    }
}

/// Finds what both sides know, and the answer that says so.
pub(super) fn agree<T>(request: &Request<T>, offer: Offer) -> Result<(Agreed, Answer), Refusal> {
    let headers = request.headers();
    let upgrades = names(headers, UPGRADE);
    if !names(headers, CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade")) {
        return Err(refuse(
            "this needs an upgrade to SPDY/3.1 or to a WebSocket",
        ));
    }
    match upgrades.last() {
        Some(name) if name.eq_ignore_ascii_case(SPDY) => spdy(headers, offer.spdy),
        Some(name) if name.eq_ignore_ascii_case(WEBSOCKET) => websocket(headers, offer.websocket),
        _ => Err(refuse("only SPDY/3.1 and WebSocket are spoken here")),
    }
}

fn spdy(headers: &HeaderMap, ours: &'static [&'static str]) -> Result<(Agreed, Answer), Refusal> {
    let theirs: Vec<_> = names(headers, PROTOCOL_VERSION).collect();
    if theirs.is_empty() {
        return Err(refuse("the header X-Stream-Protocol-Version is missing"));
    }
    let Some(protocol) = common(&theirs, ours) else {
        let refusal = Refusal::new(StatusCode::FORBIDDEN, "no subprotocol that both sides know");
        return Err(Refusal {
            accepted: ours,
            ..refusal
        });
    };
    let mut answer = switch(SPDY);
    let value = HeaderValue::from_static(protocol);
    answer.headers_mut().insert(PROTOCOL_VERSION, value);
    Ok((Agreed::Spdy(protocol), answer))
}

/// RFC 6455, section 4.2.
fn websocket(headers: &HeaderMap, ours: &[&'static str]) -> Result<(Agreed, Answer), Refusal> {
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(refuse("the header Sec-WebSocket-Key is missing"));
    };
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes)
        != Some(b"13")
    {
        return Err(refuse("the header Sec-WebSocket-Version is not 13"));
    }
    let mut theirs: Vec<_> = names(headers, SEC_WEBSOCKET_PROTOCOL).collect();
    if theirs.is_empty() {
        theirs.push("");
    }
    let Some(protocol) = common(&theirs, ours) else {
        let text = format!(
            "no subprotocol that both sides know: here are {}",
            ours.join(" ")
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, text));
    };
    let mut answer = switch(WEBSOCKET);
    let accept = derive_accept_key(key.as_bytes());
    if let Ok(value) = HeaderValue::from_str(&accept) {
        answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, value);
    }
    if !protocol.is_empty() {
        let value = HeaderValue::from_static(protocol);
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok((Agreed::WebSocket(protocol), answer))
}

/// The first of the client's that we know: its order is its wish.
fn common(theirs: &[&str], ours: &[&'static str]) -> Option<&'static str> {
    theirs
        .iter()
        .find_map(|name| ours.iter().find(|known| *known == name))
        .copied()
}

/// Names in all headers of that name, each a list with commas.
fn names(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    let lists = values.filter_map(|value| value.to_str().ok());
    let names = lists.flat_map(|list| list.split(',')).map(str::trim);
    names.filter(|name| !name.is_empty())
}

fn switch(to: &'static str) -> Answer {
    let mut answer = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    answer
}

fn refuse(text: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

/// The only answer on its connection.
pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer {
        spdy: &["v4", "v3"],
        websocket: &["v5", "v4", ""],
    };

    fn agreed(headers: &[(&str, &str)]) -> Result<Agreed, u16> {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let result = agree(&request.body(()).unwrap(), OFFER);
        result
            .map(|(agreed, _)| agreed)
            .map_err(|refusal| refusal.answer().status().as_u16())
    }

    #[test]
    fn the_clients_first_choice_that_we_know_is_taken() {
        let spdy = |versions: &[&str]| {
            let mut headers = vec![
                ("Connection", "keep-alive, Upgrade"),
                ("Upgrade", "SPDY/3.1"),
            ];
            headers.extend(
                versions
                    .iter()
                    .map(|name| ("X-Stream-Protocol-Version", *name)),
            );
            agreed(&headers)
        };
        assert_eq!(spdy(&["v5", "v3", "v4"]), Ok(Agreed::Spdy("v3")));
        assert_eq!(spdy(&["v5, v4"]), Ok(Agreed::Spdy("v4")));
        assert_eq!(spdy(&["v9"]), Err(403));
        assert_eq!(spdy(&[]), Err(400));
    }

    #[test]
    fn a_websocket_need_not_name_a_protocol() {
        let websocket = |protocol: &[(&'static str, &'static str)]| {
            let mut headers = vec![
                ("connection", "upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-version", "13"),
            ];
            headers.extend(protocol);
            agreed(&headers)
        };
        assert_eq!(websocket(&[]), Ok(Agreed::WebSocket("")));
        let named = [("sec-websocket-protocol", "v4, v5")];
        assert_eq!(websocket(&named), Ok(Agreed::WebSocket("v4")));
        assert_eq!(websocket(&[("sec-websocket-protocol", "v1")]), Err(403));
    }

    #[test]
    fn what_is_no_upgrade_is_told_what_is_missing() {
        assert_eq!(agreed(&[]), Err(400));
        assert_eq!(agreed(&[("upgrade", "SPDY/3.1")]), Err(400));
        assert_eq!(
            agreed(&[("connection", "upgrade"), ("upgrade", "h2c")]),
            Err(400)
        );
    }
}
