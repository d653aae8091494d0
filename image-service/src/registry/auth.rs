//! Credentials: whose they are, which host may see them, and how a registry asks for them.
//!
//! Rule: RFC 9110, section 11.6.1 (challenges); Docker's token protocol, which all registries speak:
//! `WWW-Authenticate: Bearer realm="https://auth",service="s",scope="repository:x:pull"`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;

use super::location;

const MAX_CHALLENGE: usize = 16 << 10;

/// Credentials that came with one request to pull; never stored, never logged.
#[derive(Clone, Default)]
pub struct Auth {
    pub username: String,
    pub password: String,
    /// Shape: base64 of `username:password`, in place of the two.
    pub auth: String,
    /// The registry they are for; empty means the registry that the reference names.
    pub server_address: String,
    /// An OAuth2 refresh token.
    pub identity_token: String,
    /// A bearer token that the registry itself accepts.
    pub registry_token: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// Credentials in the one form that will be used.
#[derive(Clone)]
pub(super) enum Credential {
    Basic { username: String, password: String },
    Identity(String),
    Bearer(String),
}

impl Auth {
    /// What may be shown to the host at `authority`. Mirrors get nothing unless `server_address`
    /// names them: who runs a mirror must not learn the password of the registry.
    pub(super) fn for_host(
        &self,
        authority: &str,
        is_server: bool,
        registry: &str,
    ) -> Option<Credential> {
        let named = server_name(&self.server_address);
        let allowed = match named.as_str() {
            "" => is_server,
            named => named == authority || (is_server && named == server_name(registry)),
        };
        if !allowed {
            return None;
        }
        self.credential()
    }

    fn credential(&self) -> Option<Credential> {
        if !self.registry_token.is_empty() {
            return Some(Credential::Bearer(self.registry_token.clone()));
        }
        if !self.identity_token.is_empty() {
            return Some(Credential::Identity(self.identity_token.clone()));
        }
        if !self.username.is_empty() {
            return Some(Credential::Basic {
                username: self.username.clone(),
                password: self.password.clone(),
            });
        }
        let decoded = STANDARD.decode(self.auth.trim_end_matches('\0')).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (username, password) = decoded.split_once(':')?;
        Some(Credential::Basic {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })
    }
}

/// Docker's config files write `https://index.docker.io/v1/` for what images call `docker.io`.
fn server_name(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest).to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

pub(super) fn basic(username: &str, password: &str) -> String {
    format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    )
}

/// How a registry wants to be convinced.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// Bearer is preferred where a registry offers both.
    pub(super) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut best = None;
        for header in headers.filter(|header| header.len() <= MAX_CHALLENGE) {
            for challenge in split_challenges(header) {
                match challenge {
                    Self::Bearer { .. } => return Some(challenge),
                    Self::Basic => best = Some(challenge),
                }
            }
        }
        best
    }
}

fn split_challenges(header: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c == ',' || c.is_whitespace())
            .unwrap_or(rest.len());
        let word = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        if let Some(after) = rest.strip_prefix('=') {
            let (value, after) = value(after.trim_start());
            rest = after;
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word, value));
            }
        } else if !word.is_empty() {
            found.push((word, Vec::new()));
        }
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
    }
    found
        .into_iter()
        .filter_map(|(scheme, parameters)| challenge(&scheme, parameters))
        .collect()
}

fn challenge(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    let mut realm = None;
    let mut service = None;
    let mut scope = None;
    for (key, value) in parameters {
        match key.as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => realm.map(|realm| Challenge::Bearer {
            realm,
            service,
            scope,
        }),
        _ => None,
    }
}

/// A token or a quoted string, and what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text
            .find(|c: char| c == ',' || c.is_whitespace())
            .unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// The realm with its query, where `host` may leave out what is its own; refused if it would carry what https protects over
/// plain http.
pub(super) fn token_url(
    realm: &str,
    host: &Uri,
    query: &[(&str, &str)],
) -> Result<Uri, &'static str> {
    let uri = location::resolve(host, realm).ok_or("the token realm is not a URL")?;
    match (host.scheme_str(), uri.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) => {}
        _ => return Err("the token realm of an https registry must be https"),
    }
    let mut target = uri.path().to_owned();
    let mut separator = '?';
    if let Some(own) = uri.query() {
        target = format!("{target}?{own}");
        separator = '&';
    }
    for (key, value) in query {
        target.push(separator);
        target += &format!("{key}={}", percent(value));
        separator = '&';
    }
    let mut parts = uri.into_parts();
    parts.path_and_query = target.parse().ok();
    Uri::from_parts(parts).map_err(|_| "the token realm is not a URL")
}

/// Everything but unreserved characters. Rule: RFC 3986, section 2.3.
pub(super) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Auth {
        Auth {
            username: "u".to_owned(),
            password: "p".to_owned(),
            server_address: text.to_owned(),
            ..Auth::default()
        }
    }

    #[test]
    fn credentials_stay_with_their_host() {
        let sees = |address: &str, host: &str, is_server: bool, registry: &str| {
            password(address)
                .for_host(host, is_server, registry)
                .is_some()
        };
        assert!(sees("", "registry-1.docker.io", true, "docker.io"));
        assert!(!sees("", "mirror.example", false, "docker.io"));
        assert!(sees(
            "https://index.docker.io/v1/",
            "registry-1.docker.io",
            true,
            "docker.io"
        ));
        assert!(!sees(
            "https://index.docker.io/v1/",
            "mirror.example",
            false,
            "docker.io"
        ));
        assert!(sees("mirror.example", "mirror.example", false, "docker.io"));
        assert!(!sees("other.example", "q.example", true, "q.example"));
        assert!(sees(
            "q.example:5000",
            "q.example:5000",
            true,
            "q.example:5000"
        ));
        assert!(!sees("q.example", "q.example:5000", true, "q.example:5000"));
    }

    #[test]
    fn every_field_of_auth_is_understood_and_none_is_shown() {
        let encoded = Auth {
            auth: STANDARD.encode("u:p:w"),
            ..Auth::default()
        };
        let Some(Credential::Basic { username, password }) = encoded.credential() else {
            panic!("no credential");
        };
        assert_eq!((username.as_str(), password.as_str()), ("u", "p:w"));
        assert!(Auth::default().credential().is_none());
        let secret = || "secret".to_owned();
        let mut auth = Auth {
            username: secret(),
            password: secret(),
            auth: secret(),
            server_address: "q.example".into(),
            identity_token: secret(),
            registry_token: secret(),
        };
        let text = format!("{auth:?}");
        assert!(
            text.contains("q.example") && !text.contains("secret"),
            "{text}"
        );
        assert!(matches!(auth.credential(), Some(Credential::Bearer(token)) if token == "secret"));
        auth.registry_token.clear();
        assert!(
            matches!(auth.credential(), Some(Credential::Identity(token)) if token == "secret")
        );
        auth.identity_token.clear();
        assert!(
            matches!(auth.credential(), Some(Credential::Basic { username, .. }) if username == "secret")
        );
    }

    #[track_caller]
    fn check(header: &str, want: Option<(&str, Option<&str>, Option<&str>)>) {
        let got = Challenge::parse([header].into_iter());
        let want = want.map(|(realm, service, scope)| match realm {
            "" => Challenge::Basic,
            realm => Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            },
        });
        assert_eq!(got, want, "{header}");
    }

    #[test]
    fn challenges_are_read_in_every_spelling() {
        check(
            r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#,
            Some(("https://a/t", Some("s"), Some("repository:x:pull,push"))),
        );
        check(
            r#"bearer  realm=https://a/t , service = s"#,
            Some(("https://a/t", Some("s"), None)),
        );
        check(r#"Basic realm="r""#, Some(("", None, None)));
        check(
            r#"Basic realm="r", Bearer realm="x\"y""#,
            Some((r#"x"y"#, None, None)),
        );
        check(r#"Negotiate, Basic"#, Some(("", None, None)));
        check("", None);
        check(r#"Bearer service="s""#, None);
        check(r#"Bearer realm="unclosed"#, Some(("unclosed", None, None)));
        check("=,==,", None);
    }

    #[test]
    fn a_token_realm_may_not_weaken_the_transport() {
        let url = |realm: &str, host: &str| {
            let host: Uri = host.parse().unwrap();
            token_url(realm, &host, &[("scope", "a:b c")]).map(|uri| uri.to_string())
        };
        assert_eq!(
            url("https://a/t?x=1", "https://h").unwrap(),
            "https://a/t?x=1&scope=a%3Ab%20c"
        );
        assert_eq!(
            url("http://a/t", "http://h").unwrap(),
            "http://a/t?scope=a%3Ab%20c"
        );
        assert_eq!(
            url("/t", "https://h").unwrap(),
            "https://h/t?scope=a%3Ab%20c"
        );
        assert!(url("http://a/t", "https://h").is_err());
        assert!(url("file:///etc", "http://h").is_err());
    }
}
