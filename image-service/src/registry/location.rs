//! Where a `Location` leads, and whether two addresses are one host's.
//!
//! Rule: RFC 9110, section 10.2.2: a location is a URI reference, resolved against the address that was asked; RFC 3986,
//! section 5.2, says how.

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

/// A reference in its five parts, less the fragment, which is never sent.
#[derive(Default)]
struct Parts<'a> {
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

/// The address that `reference` means at `base`; `None` if it is none that can be asked.
pub(super) fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = escape(reference.trim());
    let parts = split(&reference);
    let scheme = match parts.scheme {
        Some(scheme) => Scheme::try_from(scheme.to_ascii_lowercase().as_str()).ok()?,
        None => base.scheme()?.clone(),
    };
    let authority = match (parts.authority, parts.scheme) {
        (Some(authority), _) => authority_of(authority)?,
        // `https:path` and `mailto:` name no host.
        (None, Some(_)) => return None,
        (None, None) => base.authority()?.clone(),
    };
    let is_elsewhere = parts.authority.is_some();
    let (path, query) = match parts.path {
        "" if is_elsewhere => ("/".to_owned(), parts.query),
        "" => (base.path().to_owned(), parts.query.or(base.query())),
        path if path.starts_with('/') => (without_dots(path), parts.query),
        path => (without_dots(&merge(base.path(), path)), parts.query),
    };
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(PathAndQuery::try_from(target).ok()?)
        .build()
        .ok()
}

/// One host by one scheme at one port, whether the port is written or not.
pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    match (origin(a), origin(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// Shape: `https://host.example:443`.
pub(super) fn origin(uri: &Uri) -> Option<String> {
    let scheme = uri.scheme_str()?;
    let port = match (uri.port_u16(), scheme) {
        (Some(port), _) => port,
        (None, "https") => 443,
        (None, _) => 80,
    };
    let host = uri.host()?.to_ascii_lowercase();
    Some(format!("{scheme}://{host}:{port}"))
}

/// A user's name and password in an address are nothing that a server may choose for us.
fn authority_of(text: &str) -> Option<Authority> {
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let authority = Authority::try_from(host).ok()?;
    // What follows the host is a port, if it is anything.
    let rest = host.strip_prefix(authority.host())?;
    let is_port = rest.is_empty() || authority.port_u16().is_some();
    (is_port && !authority.host().is_empty()).then_some(authority)
}

/// Servers send spaces and letters of all scripts, which clients are used to escape.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                out += &format!("%{byte:02X}");
            }
            0x21..=0x7e => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// Rule: RFC 3986, appendix B.
fn split(text: &str) -> Parts<'_> {
    let mut parts = Parts::default();
    let mut rest = text.split('#').next().unwrap_or(text);
    if let Some((scheme, after)) = rest.split_once(':')
        && is_scheme(scheme)
    {
        parts.scheme = Some(scheme);
        rest = after;
    }
    if let Some(after) = rest.strip_prefix("//") {
        let end = after.find(['/', '?']).unwrap_or(after.len());
        parts.authority = Some(&after[..end]);
        rest = &after[end..];
    }
    match rest.split_once('?') {
        Some((path, query)) => (parts.path, parts.query) = (path, Some(query)),
        None => parts.path = rest,
    }
    parts
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Rule: RFC 3986, section 5.2.3.
fn merge(base: &str, path: &str) -> String {
    let folder = base.rfind('/').map_or("/", |slash| &base[..=slash]);
    format!("{folder}{path}")
}

/// Rule: RFC 3986, section 5.2.4, for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reference: &str, want: Option<&str>) {
        let base = Uri::from_static("http://a/b/c/d;p?q");
        let got = resolve(&base, reference).map(|uri| uri.to_string());
        assert_eq!(got.as_deref(), want, "{reference:?}");
    }

    /// The examples of RFC 3986, sections 5.4.1 and 5.4.2, but for those that name no host.
    #[test]
    fn references_resolve_as_the_standard_shows() {
        for (reference, want) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q"),
            ("g#s", "http://a/b/c/g"),
            ("g?y#s", "http://a/b/c/g?y"),
            (";x", "http://a/b/c/;x"),
            ("g;x", "http://a/b/c/g;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("../../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g.", "http://a/b/c/g."),
            ("..g", "http://a/b/c/..g"),
            ("./../g", "http://a/b/g"),
            ("./g/.", "http://a/b/c/g/"),
            ("g/./h", "http://a/b/c/g/h"),
            ("g/../h", "http://a/b/c/h"),
            ("g;x=1/../y", "http://a/b/c/y"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
        ] {
            check(reference, Some(want));
        }
    }

    #[test]
    fn other_hosts_and_other_letters() {
        check("https://h:5000/x?y=z", Some("https://h:5000/x?y=z"));
        check("HTTP://h", Some("http://h/"));
        check("http://h?y", Some("http://h/?y"));
        check("//h:1/x/../y", Some("http://h:1/y"));
        check("//[::1]:5000/x", Some("http://[::1]:5000/x"));
        check("https://user:secret@h/x", Some("https://h/x"));
        check(" /a b/ü ", Some("http://a/a%20b/%C3%BC"));
        check("/a%20b|c", Some("http://a/a%20b%7Cc"));
        check("1:2/x", Some("http://a/b/c/1:2/x"));
        for none in [
            "http:g",
            "http:",
            "mailto:x",
            "http://",
            "http:///x",
            "//h:port/",
        ] {
            check(none, None);
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &'static str, b: &'static str| {
            same_origin(&Uri::from_static(a), &Uri::from_static(b))
        };
        assert!(same("https://h/x", "https://H:443/y"));
        assert!(same("http://h:80/", "http://h/"));
        assert!(!same("https://h/", "http://h/"));
        assert!(!same("https://h/", "https://h:5000/"));
        assert!(!same("https://h/", "https://h.example/"));
        assert!(!same("/x", "/x"));
    }
}
