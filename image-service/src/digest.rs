//! Digests: of blobs, of uncompressed layers (diff ids), of stacks of layers (chain ids).
//!
//! Rule: OCI image-spec v1.1, descriptor.md, "Registered Algorithms": SHA-256 is for all, SHA-512 may be. Others are refused.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// Shape: `sha256:` and 64 lower case hex digits, or `sha512:` and 128.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Digest {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// A digest that is being made.
#[derive(Debug)]
pub(crate) enum Hash {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hash {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::Sha256(hash.finalize().into()),
            Self::Sha512(hash) => Digest::Sha512(hash.finalize().into()),
        }
    }
}

impl Digest {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("sha256", hex) => Self::from_hex(hex),
            ("sha512", hex) => bytes(hex).map(Self::Sha512),
            _ => None,
        }
    }

    /// Digest of SHA-256, whose name people leave out.
    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        bytes(hex).map(Self::Sha256)
    }

    /// Digest by SHA-256, as for whatever has no digest from elsewhere.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self::by(Algorithm::Sha256, bytes)
    }

    pub(crate) fn by(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hash = Hash::new(algorithm);
        hash.update(bytes);
        hash.finish()
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The identity of a layer on top of those below it.
    ///
    /// Rule: OCI image-spec v1.1, config.md, "Layer ChainID".
    pub(crate) fn chain(below: Option<&Self>, diff_id: &Self) -> Self {
        match below {
            None => *diff_id,
            Some(below) => Self::of(format!("{below} {diff_id}").as_bytes()),
        }
    }

    pub(crate) fn hex(&self) -> String {
        let bytes = match self {
            Self::Sha256(bytes) => &bytes[..],
            Self::Sha512(bytes) => &bytes[..],
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Path of the blob in an OCI layout.
    pub(crate) fn blob_name(&self) -> String {
        format!("blobs/{}/{}", self.algorithm().name(), self.hex())
    }
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    if hex.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no digest by sha256 or sha512"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_sha256_and_sha512_are_digests() {
        let hex = "a".repeat(64);
        assert_eq!(
            Digest::parse(&format!("sha256:{hex}")).map(|d| d.hex()),
            Some(hex.clone())
        );
        let long = format!("sha512:{hex}{hex}");
        assert_eq!(
            Digest::parse(&long).map(|d| d.to_string()),
            Some(long.clone())
        );
        assert_eq!(
            Digest::by(Algorithm::Sha512, b"").hex()[..16],
            *"cf83e1357eefb8bd"
        );
        for bad in [
            String::new(),
            format!("sha256:{hex}{hex}"),
            format!("sha384:{}", "a".repeat(96)),
            hex.clone(),
            format!("sha512:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{hex}0"),
            format!("sha256:{}", "é".repeat(32)),
        ] {
            assert_eq!(Digest::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_chain_of_one_is_its_diff_id() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(Digest::chain(None, &a), a);
        assert_eq!(
            Digest::chain(Some(&a), &b),
            Digest::of(format!("{a} {b}").as_bytes())
        );
    }
}
