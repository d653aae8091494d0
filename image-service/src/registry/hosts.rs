//! `certs.d/<registry>/hosts.toml`: which hosts to ask for a registry's images, best first.
//!
//! ```toml
//! server = "https://registry-1.docker.io"       # asked last; the registry itself by default
//! [host."https://mirror.example"]               # asked in the order of the file
//! capabilities = ["pull", "resolve"]            # blobs and digests; tags. Both by default
//! override_path = false                         # true: the path of the URL replaces /v2
//! ca = "ca.pem"                                 # or a list; relative to this folder
//! client = [["client.pem", "client.key"]]       # or one file with both
//! skip_verify = false
//! [host."https://mirror.example".header]
//! x-team = "a"                                  # or a list
//! ```
//!
//! `client`, `skip_verify` and headers are for the host that they are written for. Where that redirects, and its token server, is
//! another host, known only by the `ca`, unless the file names it, too: with `capabilities = []` if it is no mirror.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde::Deserialize;
use toml::Table;

use crate::error::{At as _, Error};

const MAX_FILE: u64 = 1 << 20;

/// One host to ask.
#[derive(Debug)]
pub(super) struct Entry {
    /// Shape: `https://mirror.example:5000/v2`, no slash at the end.
    pub(super) base: Uri,
    /// May answer which manifest a tag means.
    pub(super) resolve: bool,
    /// May serve blobs and manifests by digest.
    pub(super) pull: bool,
    /// The registry itself, by its name or by the operator's `server`: credentials for the registry
    /// are credentials for this host.
    pub(super) is_server: bool,
    pub(super) header: HeaderMap,
    pub(super) tls: Trust,
    /// `base` is the address of what is wanted, and not of a registry.
    pub(super) is_exact: bool,
}

impl Entry {
    /// Entry for a file that lies anywhere.
    pub(super) fn of_url(url: Uri) -> Self {
        Self {
            base: url,
            resolve: false,
            pull: true,
            is_server: false,
            header: HeaderMap::new(),
            tls: Trust::default(),
            is_exact: true,
        }
    }
}

/// A host as the daemon's configuration names it.
pub(super) fn layer_host(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    let is_bare = uri.path() == "/" && uri.query().is_none();
    (is_web && is_bare && !uri.host()?.is_empty()).then_some(uri)
}

/// Files that decide which server is trusted and how we show who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trust {
    pub(super) ca: Vec<PathBuf>,
    /// Certificate and key; the same path twice if one file holds both.
    pub(super) client: Vec<(PathBuf, PathBuf)>,
    pub(super) skip_verify: bool,
}

impl Trust {
    /// Part of it that holds for hosts that the operator did not name.
    pub(super) fn for_others(&self) -> Self {
        Self {
            ca: self.ca.clone(),
            ..Self::default()
        }
    }
}

/// The first folder that knows the registry decides; `_default` stands for all others.
pub(super) fn read(certs_dirs: &[PathBuf], registry: &str) -> Result<Vec<Entry>, Error> {
    // `:` is no good file name everywhere, so containerd allows `host_5000_` too.
    let spelled = registry
        .rsplit_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    let names = [
        Some(registry.to_owned()),
        spelled,
        Some("_default".to_owned()),
    ];
    for name in names.into_iter().flatten() {
        for dir in certs_dirs {
            let path = dir.join(&name).join("hosts.toml");
            match read_bounded(&path) {
                Ok(text) => return parse(&path, &text, registry),
                Err(source) if is_absent(&source) => {}
                Err(source) => return Err(source).at("read", path),
            }
        }
    }
    let server = Server::default().entry(Path::new(""), &default_server(registry), true);
    server
        .map(|entry| vec![entry])
        .map_err(|reason| Error::HostsFile {
            path: PathBuf::from(registry),
            reason,
        })
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn read_bounded(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read_to_string(path)
}

pub(super) fn parse(path: &Path, text: &str, registry: &str) -> Result<Vec<Entry>, Error> {
    let broken = |reason: String| Error::HostsFile {
        path: path.to_owned(),
        reason,
    };
    let file: File = toml::from_str(text).map_err(|error| broken(error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut entries = Vec::new();
    for (url, table) in file.host {
        let host: Server = table.try_into().map_err(|error: toml::de::Error| {
            broken(format!("host {url:?}: {}", error.message()))
        })?;
        let entry = host.entry(folder, &url, false);
        entries.push(entry.map_err(|reason| broken(format!("host {url:?}: {reason}")))?);
    }
    let server = file.server.unwrap_or_else(|| default_server(registry));
    let entry = file.root.entry(folder, &server, true);
    entries.push(entry.map_err(|reason| broken(format!("server {server:?}: {reason}")))?);
    Ok(entries)
}

/// Where a registry's name leads without any file.
fn default_server(registry: &str) -> String {
    match registry {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        _ => with_scheme(registry),
    }
}

fn with_scheme(host: &str) -> String {
    if host.contains("://") {
        return host.to_owned();
    }
    let name = host.split('/').next().unwrap_or(host);
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    // As Docker and containerd do: nobody else listens on loopback.
    match name {
        "localhost" | "127.0.0.1" | "[::1]" => format!("http://{host}"),
        _ => format!("https://{host}"),
    }
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::map::Map<String, toml::Value>,
    #[serde(flatten)]
    root: Server,
}

/// Unknown keys are let pass: containerd adds keys, and its files must stay readable.
#[derive(Default, Deserialize)]
struct Server {
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    override_path: bool,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: Table,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Many(Vec<OneOrMany>),
}

impl Server {
    fn entry(self, folder: &Path, url: &str, is_server: bool) -> Result<Entry, String> {
        let may = |what: &str| {
            self.capabilities
                .as_ref()
                .is_none_or(|list| list.iter().any(|entry| entry == what))
        };
        let ca = self.ca.map(OneOrMany::into_vec).unwrap_or_default();
        Ok(Entry {
            base: base(url, self.override_path)?,
            resolve: may("resolve"),
            pull: may("pull"),
            is_server,
            header: headers(&self.header)?,
            tls: Trust {
                ca: ca.iter().map(|file| folder.join(file)).collect(),
                client: self
                    .client
                    .map(|client| pairs(folder, client))
                    .transpose()?
                    .unwrap_or_default(),
                skip_verify: self.skip_verify,
            },
            is_exact: false,
        })
    }
}

fn base(url: &str, override_path: bool) -> Result<Uri, String> {
    let url = with_scheme(url);
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("the scheme must be http or https".to_owned());
    }
    if uri.query().is_some() {
        return Err("a host has no query".to_owned());
    }
    if uri
        .authority()
        .is_some_and(|host| host.as_str().contains('@'))
    {
        return Err("credentials do not belong in the URL; set header.authorization".to_owned());
    }
    let path = uri.path().trim_end_matches('/');
    let path = match path {
        _ if override_path => path.to_owned(),
        _ if path.ends_with("/v2") => path.to_owned(),
        _ => format!("{path}/v2"),
    };
    let mut parts = uri.into_parts();
    // An empty path cannot be kept in a Uri; `/` is trimmed again where it is used.
    let path = if path.is_empty() { "/" } else { &path };
    parts.path_and_query = Some(path.parse().map_err(|error| format!("{error}"))?);
    Uri::from_parts(parts).map_err(|error| error.to_string())
}

fn headers(table: &Table) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let bad = || format!("header {name:?} needs a string or a list of strings");
        let values: OneOrMany = value.clone().try_into().map_err(|_| bad())?;
        let name = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
        for value in values.into_vec() {
            let mut value = HeaderValue::try_from(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

fn pairs(folder: &Path, client: Client) -> Result<Vec<(PathBuf, PathBuf)>, String> {
    let both = |file: String| (folder.join(&file), folder.join(file));
    let entries = match client {
        Client::One(file) => return Ok(vec![both(file)]),
        Client::Many(entries) => entries,
    };
    let pair = |entry| match entry {
        OneOrMany::One(file) => Ok(both(file)),
        OneOrMany::Many(files) => match <[String; 2]>::try_from(files) {
            Ok([cert, key]) if key.is_empty() => Ok(both(cert)),
            Ok([cert, key]) => Ok((folder.join(cert), folder.join(key))),
            Err(_) => Err("client needs pairs of certificate and key".to_owned()),
        },
    };
    entries.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(registry: &str, text: &str, want: &[&str]) {
        let got: Vec<_> = match parse(Path::new("/c/hosts.toml"), text, registry) {
            Ok(entries) => entries.iter().map(show).collect(),
            Err(error) => vec![error.to_string()],
        };
        assert_eq!(got, want);
    }

    fn show(entry: &Entry) -> String {
        let flag = |on: bool, name: &str| {
            if on {
                format!(" {name}")
            } else {
                String::new()
            }
        };
        let mut line = entry.base.to_string();
        line += &flag(entry.pull, "pull");
        line += &flag(entry.resolve, "resolve");
        line += &flag(entry.is_server, "server");
        line += &flag(entry.tls.skip_verify, "insecure");
        for file in &entry.tls.ca {
            line += &format!(" ca={}", file.display());
        }
        for (cert, key) in &entry.tls.client {
            line += &format!(" client={},{}", cert.display(), key.display());
        }
        for name in entry.header.keys() {
            line += &format!(" {name}");
        }
        line
    }

    #[test]
    fn hosts_keep_the_order_of_the_file() {
        check(
            "docker.io",
            r#"
            server = "https://example.org"
            [host."https://z.example"]
            capabilities = ["pull"]
            [host."http://a.example:5000/base"]
            [host."m.example/v2/proxy"]
            override_path = true
            "#,
            &[
                "https://z.example/v2 pull",
                "http://a.example:5000/base/v2 pull resolve",
                "https://m.example/v2/proxy pull resolve",
                "https://example.org/v2 pull resolve server",
            ],
        );
    }

    #[test]
    fn the_registry_itself_comes_last() {
        check(
            "docker.io",
            "",
            &["https://registry-1.docker.io/v2 pull resolve server"],
        );
        check(
            "localhost:5000",
            "",
            &["http://localhost:5000/v2 pull resolve server"],
        );
        check(
            "r.example",
            "skip_verify = true\nca = ['x.pem', '/y.pem']",
            &["https://r.example/v2 pull resolve server insecure ca=/c/x.pem ca=/y.pem"],
        );
    }

    #[test]
    fn client_certificates_and_headers_come_in_all_shapes() {
        let tail = "https://r.example/v2 pull resolve server";
        for (client, want) in [
            ("'a.pem'", "client=/c/a.pem,/c/a.pem"),
            ("['a.pem']", "client=/c/a.pem,/c/a.pem"),
            ("[['a.pem', 'a.key']]", "client=/c/a.pem,/c/a.key"),
            ("[['a.pem', '']]", "client=/c/a.pem,/c/a.pem"),
        ] {
            check(
                "r.example",
                &format!(
                    "[host.'https://m']\nclient = {client}\n[host.'https://m'.header]\nx-a = ['1', '2']"
                ),
                &[&format!("https://m/v2 pull resolve {want} x-a"), tail],
            );
        }
    }

    #[test]
    fn a_broken_file_is_named() {
        check(
            "r.example",
            "[host.'ftp://m']",
            &["hosts file /c/hosts.toml: host \"ftp://m\": the scheme must be http or https"],
        );
        check(
            "r.example",
            "[host.'https://u:p@m']",
            &[
                "hosts file /c/hosts.toml: host \"https://u:p@m\": credentials do not belong in the URL; set header.authorization",
            ],
        );
        check(
            "r.example",
            "[host.'https://m']\ncapabilities = 3",
            &[
                "hosts file /c/hosts.toml: host \"https://m\": invalid type: integer `3`, expected a sequence",
            ],
        );
    }

    #[test]
    fn a_registry_without_a_folder_uses_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            fs::create_dir_all(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
        };
        put("_default", "[host.'http://all']");
        put("a.example_5000_", "[host.'http://one']");
        let first = |registry: &str| {
            let entries = read(&[dir.path().to_owned()], registry).unwrap();
            entries[0].base.to_string()
        };
        assert_eq!(first("a.example:5000"), "http://one/v2");
        assert_eq!(first("b.example"), "http://all/v2");
    }
}
