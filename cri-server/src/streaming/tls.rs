//! TLS of the streaming server: its certificate, read anew when the files change.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    config::{Tls, TlsVersion},
    error::{At, Error, Result},
};

/// A file of more bytes is neither a certificate nor a key.
const MAX_FILE: u64 = 1 << 20;

/// The certificate that is in use.
#[derive(Debug)]
pub(super) struct Certificate {
    tls: Tls,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    state: [FileState; 2],
    config: Arc<ServerConfig>,
}

/// What changes when a file is written, or another is put in its place.
#[derive(Clone, Copy, Debug, PartialEq)]
struct FileState {
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

impl Certificate {
    /// # Errors
    /// When a file cannot be read, or the two do not fit together.
    pub(super) fn load(tls: Tls) -> Result<Self> {
        let loaded = Mutex::new(load(&tls)?);
        Ok(Self { tls, loaded })
    }

    /// For a new connection. When the files have changed to what cannot be used, the old certificate stays.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if state(&self.tls).is_ok_and(|state| state != loaded.state) {
            match load(&self.tls) {
                Ok(new) => {
                    tracing::info!("the streaming server has a new certificate");
                    *loaded = new;
                }
                Err(error) => tracing::warn!(
                    error = error.chain(),
                    "the streaming server keeps its old certificate"
                ),
            }
        }
        TlsAcceptor::from(Arc::clone(&loaded.config))
    }
}

fn state(tls: &Tls) -> Result<[FileState; 2]> {
    let of = |path: &Path| -> Result<FileState> {
        let metadata = fs::metadata(path).at("read", path)?;
        Ok(FileState {
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            length: metadata.len(),
        })
    };
    Ok([of(&tls.certificate)?, of(&tls.key)?])
}

fn load(tls: &Tls) -> Result<Loaded> {
    // Before the files are read: what changes meanwhile is seen the next time.
    let state = state(tls)?;
    let failed = |path: &Path, source| Error::Io {
        doing: format!("use {} for TLS of the streaming server", path.display()),
        source,
    };
    let other =
        |path: &Path, error: &dyn ToString| failed(path, io::Error::other(error.to_string()));
    let pem = read(&tls.certificate)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| other(&tls.certificate, &error))?;
    let key =
        PrivateKeyDer::from_pem_slice(&read(&tls.key)?).map_err(|error| other(&tls.key, &error))?;
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .map_err(|error| other(&tls.certificate, &error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| other(&tls.certificate, &error))?;
    Ok(Loaded {
        state,
        config: Arc::new(config),
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path).at("open", path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    Ok(bytes)
}
