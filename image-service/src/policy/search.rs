//! Where an image's signatures lie: in a manifest whose tag is made of the image's digest, and in those that the registry
//! knows to refer to the image.
//!
//! Rules: cosign, specs/SIGNATURE_SPEC.md, "Storage"; OCI distribution-spec v1.1, "Listing Referrers", "Referrers Tag Schema".

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::Error;
use crate::manifest::Blob;
use crate::registry::Session;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Whoever may push could add more to keep a node busy.
const MAX_SIGNATURES: usize = 32;
const MAX_PAYLOAD: u64 = 64 << 10;

/// What a signature is over, and the signature in base64.
#[derive(Debug)]
pub(super) struct Signature {
    pub(super) payload: Vec<u8>,
    pub(super) signature: String,
}

/// Of a signature's manifest, and of an index of referrers. What else they hold is nobody's business here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    layers: Vec<Entry>,
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Entry {
    fn blob(&self) -> Option<Blob> {
        Some(Blob {
            digest: Digest::parse(&self.digest)?,
            size: self.size,
            urls: Vec::new(),
        })
    }
}

pub(super) async fn signatures(session: &Session, image: &Digest) -> Result<Vec<Signature>, Error> {
    let fallback = format!("{}-{}", image.algorithm().name(), image.hex());
    let mut manifests = Vec::new();
    if let Some(bytes) = session.tag(&format!("{fallback}.sig")).await? {
        manifests.push(bytes);
    }
    let referrers = match session.referrers(image).await? {
        Some(bytes) => Some(bytes),
        None => session.tag(&fallback).await?,
    };
    let referrers: Document = referrers.map(|bytes| parse(&bytes)).unwrap_or_default();
    let of_cosign = |entry: &&Entry| entry.artifact_type == ARTIFACT;
    for entry in referrers
        .manifests
        .iter()
        .filter(of_cosign)
        .take(MAX_SIGNATURES)
    {
        if let Some(blob) = entry.blob() {
            manifests.push(session.manifest(&blob).await?);
        }
    }
    let mut found = Vec::new();
    for manifest in manifests {
        for layer in parse(&manifest).layers {
            let signature = layer.annotations.get(SIGNATURE);
            if let (Some(blob), Some(signature), PAYLOAD) =
                (layer.blob(), signature, layer.media_type.as_str())
                && found.len() < MAX_SIGNATURES
            {
                let payload = session.small_blob("signature", &blob, MAX_PAYLOAD).await?;
                found.push(Signature {
                    payload: payload.to_vec(),
                    signature: signature.clone(),
                });
            }
        }
    }
    Ok(found)
}

/// What is no such document has no signature in it.
pub(super) fn parse(bytes: &[u8]) -> Document {
    serde_json::from_slice(bytes).unwrap_or_default()
}
