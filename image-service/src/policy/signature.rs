//! One signature: over which bytes, by whom, for which image.
//!
//! Rule: cosign, specs/SIGNATURE_SPEC.md, "Payloads" (simple signing); containers/image, docs/containers-signature.5.md.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::key::Key;
use super::search::Signature;
use crate::digest::Digest;
use crate::reference::Reference;

const TYPE: &str = "cosign container image signature";

#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    critical: Critical,
}

#[derive(Debug, Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
    identity: Identity,
}

#[derive(Debug, Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Debug, Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

/// Returns the file of the key that verifies it, or why it counts for nothing. The payload is not looked at before its
/// signature is known to be good.
pub(super) fn verify(
    found: &Signature,
    keys: &[Key],
    reference: &Reference,
    digest: &Digest,
) -> Result<String, String> {
    let signature = STANDARD.decode(&found.signature);
    let signature = signature.map_err(|_| "a signature is no base64")?;
    let key = keys
        .iter()
        .find(|key| key.verifies(&found.payload, &signature))
        .ok_or("a signature is by none of the keys, or what it signs was changed")?;
    let payload = parse(&found.payload)?;
    let Critical {
        kind,
        image,
        identity,
    } = payload.critical;
    if kind != TYPE {
        return Err(format!("a signature is of type {kind:?}"));
    }
    if Digest::parse(&image.digest) != Some(*digest) {
        return Err(format!(
            "a signature is for {:?}, not for {digest}",
            image.digest
        ));
    }
    let signed = Reference::parse(&identity.reference);
    let is_same = signed.is_ok_and(|signed| {
        signed.registry() == reference.registry() && signed.repository() == reference.repository()
    });
    match is_same {
        true => Ok(key.path.display().to_string()),
        false => Err(format!(
            "a signature is for repository {:?}",
            identity.reference
        )),
    }
}

pub(super) fn parse(payload: &[u8]) -> Result<Payload, String> {
    serde_json::from_slice(payload)
        .map_err(|error| format!("a signature is over no simple signing payload: {error}"))
}
