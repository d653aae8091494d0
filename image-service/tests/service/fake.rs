//! A registry that answers what a test tells it to: bytes on a socket, one connection a request.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::image::{Image, MANIFEST_TYPE, digest};

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// By lower case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    /// The client showed a certificate.
    pub(crate) by_certificate: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Say nothing more after the body's cut, and keep the connection.
    pub(crate) hang: bool,
}

impl Asked {
    /// Empty where there is none.
    pub(crate) fn authorization(&self) -> &str {
        self.headers.get("authorization").map_or("", String::as_str)
    }
}

type Answer = dyn Fn(&Asked) -> Reply + Send + Sync;

pub(crate) struct Fake {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Fake {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, answer).await
    }

    /// With what `registry::certificates` wrote to `dir`; a client may show a certificate of that CA.
    pub(crate) async fn start_tls(
        dir: &Path,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(tls(dir)), answer).await
    }

    async fn listen(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, answer, log) = (tls.clone(), Arc::clone(&answer), Arc::clone(&log));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, false, answer, log).await,
                        // The client may not trust us.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let shown = stream.get_ref().1.peer_certificates().is_some();
                                serve(stream, shown, answer, log).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    /// Serves one image as `<address>/app:v1`, unless `wrong` has another answer.
    pub(crate) async fn serving(
        image: Image,
        wrong: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |asked| wrong(asked).unwrap_or_else(|| serve_image(&image, asked))).await
    }

    /// The image of [`Fake::serving`].
    pub(crate) fn reference(&self) -> String {
        format!("{}/app:v1", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| asked.path.contains(part))
            .count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn serve_image(image: &Image, asked: &Asked) -> Reply {
    let path = asked.path.split('?').next().unwrap();
    let name = path.rsplit('/').next().unwrap();
    let key = if name == "v1" { &image.digest } else { name };
    match image.blobs.get(key) {
        Some(bytes) => Reply::new(200, bytes).with("Content-Type", MANIFEST_TYPE),
        None => Reply::new(404, b"{}"),
    }
}

impl Reply {
    pub(crate) fn new(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            cut: None,
            hang: false,
        }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn cut_after(self, bytes: usize) -> Self {
        Self {
            cut: Some(bytes),
            ..self
        }
    }

    pub(crate) fn hanging_after(self, bytes: usize) -> Self {
        Self {
            cut: Some(bytes),
            hang: true,
            ..self
        }
    }
}

/// What a server with ranges says.
pub(crate) fn ranged(bytes: &[u8], asked: &Asked) -> Reply {
    let Some(range) = asked.headers.get("range") else {
        return Reply::new(200, bytes);
    };
    let (start, last) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .unwrap();
    let (start, last): (usize, usize) = (start.parse().unwrap(), last.parse().unwrap());
    let range = format!("bytes {start}-{last}/{}", bytes.len());
    Reply::new(206, &bytes[start..=last]).with("Content-Range", &range)
}

/// The digest a path ends with, if it asks for that blob.
pub(crate) fn asks_for(asked: &Asked, bytes: &[u8]) -> bool {
    asked.path.contains(&format!("/blobs/{}", digest(bytes)))
}

fn tls(dir: &Path) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = |name: &str| -> Vec<_> {
        let file = CertificateDer::pem_file_iter(dir.join(name)).unwrap();
        file.map(Result::unwrap).collect()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(chain("ca.pem"));
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain("server.pem"), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    by_certificate: bool,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<Asked>>>,
) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or("").to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length: &String| length.parse().unwrap());
    let mut body = vec![0; length];
    if stream.read_exact(&mut body).await.is_err() {
        return;
    }
    let body = String::from_utf8(body).unwrap();
    let asked = Asked {
        path,
        headers,
        body,
        by_certificate,
    };
    log.lock().unwrap().push(asked.clone());
    let reply = answer(&asked);
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", reply.status);
    head += &format!("Content-Length: {}\r\n", reply.body.len());
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
    // The client may have left.
    if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(body).await.is_err() {
        return;
    }
    drop(stream.flush().await);
    if reply.hang {
        std::future::pending::<()>().await;
    }
}
