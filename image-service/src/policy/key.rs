//! Public keys: PEM files with a SubjectPublicKeyInfo, as `cosign generate-key-pair` and openssl write them.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use spki::SubjectPublicKeyInfoRef;

use crate::blocking::blocking;
use crate::error::{At as _, Error};

/// An RSA key of 8192 bits takes 1.5 KiB.
const MAX_FILE: u64 = 64 << 10;
/// RFC 5480, 8410 and 8017.
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const EDWARDS: &str = "1.3.101.112";
const RSA: &str = "1.2.840.113549.1.1.1";

type Algorithm = &'static dyn VerificationAlgorithm;

#[derive(Debug)]
pub(super) struct Key {
    pub(super) path: PathBuf,
    /// Those that such a key is used with.
    algorithms: Vec<Algorithm>,
    bits: Vec<u8>,
}

impl Key {
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.algorithms.iter().any(|algorithm| {
            UnparsedPublicKey::new(*algorithm, &self.bits)
                .verify(message, signature)
                .is_ok()
        })
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let mut text = Vec::new();
        let file = File::open(path).at("open key", path)?;
        file.take(MAX_FILE)
            .read_to_end(&mut text)
            .at("read key", path)?;
        let broken = |reason: &str| Error::content(format!("key {}", path.display()), reason);
        let info = SubjectPublicKeyInfoDer::from_pem_slice(&text)
            .map_err(|_| broken("want PEM with -----BEGIN PUBLIC KEY-----"))?;
        let info = SubjectPublicKeyInfoRef::try_from(info.as_ref())
            .map_err(|error| broken(&error.to_string()))?;
        let curve = info.algorithm.parameters_oid().map(|oid| oid.to_string());
        let algorithms: Vec<Algorithm> =
            match (info.algorithm.oid.to_string().as_str(), curve.as_deref()) {
                (EC, Ok(P256)) => vec![&ECDSA_P256_SHA256_ASN1],
                (EC, Ok(P384)) => vec![&ECDSA_P384_SHA256_ASN1, &ECDSA_P384_SHA384_ASN1],
                (EDWARDS, _) => vec![&ED25519],
                (RSA, _) => vec![&RSA_PKCS1_2048_8192_SHA256],
                _ => return Err(broken("want ECDSA on P-256 or P-384, Ed25519, or RSA")),
            };
        Ok(Self {
            path: path.to_owned(),
            algorithms,
            bits: info.subject_public_key.raw_bytes().to_vec(),
        })
    }
}

pub(super) async fn read_all(paths: &[PathBuf]) -> Result<Vec<Key>, Error> {
    let paths = paths.to_vec();
    blocking("reading keys", move || {
        paths.iter().map(|path| Key::read(path)).collect()
    })
    .await
}
