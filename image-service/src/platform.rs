//! Which entry of an index is for this machine.
//!
//! Rule: OCI image-spec v1.1, image-index.md, "Platform Variants".

use oci_spec::image::{Arch, Descriptor, Os};

use crate::digest::Digest;
use crate::error::Error;
use crate::manifest::{self, Blob, Document, Manifest};

/// Documents to read before a search is given up: indexes may nest, and may be made to be endless.
const MAX_DOCUMENTS: usize = 16;

/// The search for this machine's manifest, best candidates first, through nested indexes. The caller
/// fetches; a document that leads nowhere sends the search back to the next candidate.
#[derive(Debug)]
pub(crate) struct Search {
    subject: String,
    /// Best last.
    open: Vec<Blob>,
    read: usize,
}

impl Search {
    pub(crate) fn new(subject: String) -> Self {
        Self {
            subject,
            open: Vec::new(),
            read: 0,
        }
    }

    pub(crate) fn add(&mut self, entries: &[Descriptor]) -> Result<(), Error> {
        for entry in candidates(entries).into_iter().rev() {
            self.open.push(manifest::blob(&self.subject, entry)?);
        }
        Ok(())
    }

    /// What to fetch next.
    ///
    /// # Errors
    /// Unsupported, if nothing is left.
    pub(crate) fn next(&mut self) -> Result<Blob, Error> {
        self.read += 1;
        if self.read > MAX_DOCUMENTS {
            return Err(Error::content(&self.subject, "its indexes nest too deep"));
        }
        self.open.pop().ok_or_else(|| {
            let reason = format!("the image has no variant for {}", host());
            Error::unsupported(&self.subject, reason)
        })
    }

    /// The manifest, if the document is one; an index widens the search.
    pub(crate) fn read(
        &mut self,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<Option<Manifest>, Error> {
        match manifest::parse(digest, bytes)? {
            Document::Manifest(manifest) => Ok(Some(manifest)),
            Document::Index(entries) => self.add(&entries).map(|()| None),
        }
    }
}

/// Entries that can run here, best first. An entry without a platform comes last.
fn candidates(entries: &[Descriptor]) -> Vec<&Descriptor> {
    let mut ranked: Vec<_> = entries
        .iter()
        .filter_map(|entry| rank(entry).map(|rank| (rank, entry)))
        .collect();
    // Stable: among equals the index's own order holds.
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, entry)| entry).collect()
}

/// Shape: `linux/amd64`, as in messages.
pub(crate) fn host() -> String {
    format!("linux/{}", host_arch())
}

pub(crate) fn host_arch() -> Arch {
    match std::env::consts::ARCH {
        "x86_64" => Arch::Amd64,
        "aarch64" => Arch::ARM64,
        "arm" => Arch::ARM,
        "powerpc64" if cfg!(target_endian = "little") => Arch::PowerPC64le,
        "loongarch64" => Arch::LoongArch64,
        other => Arch::from(other),
    }
}

const NO_PLATFORM: usize = 100;

fn rank(entry: &Descriptor) -> Option<usize> {
    let Some(platform) = entry.platform() else {
        return Some(NO_PLATFORM);
    };
    if *platform.os() != Os::Linux || *platform.architecture() != host_arch() {
        return None;
    }
    let variant = platform.variant().as_deref().unwrap_or("");
    variants(&host_arch())
        .iter()
        .position(|known| *known == variant)
}

/// Variants that run here, best first. The empty one is what most images say.
fn variants(arch: &Arch) -> &'static [&'static str] {
    match arch {
        // Built for levels above the baseline only if the image has nothing else.
        Arch::Amd64 => match x86_level() {
            3 => &["", "v1", "v2", "v3"],
            2 => &["", "v1", "v2"],
            _ => &["", "v1"],
        },
        Arch::ARM64 => &["v8", "", "v8.0"],
        Arch::ARM => &["v7", "", "v6", "v5"],
        _ => &[""],
    }
}

#[cfg(target_arch = "x86_64")]
fn x86_level() -> u8 {
    let v2 = is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("popcnt");
    let v3 = v2
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("fma");
    1 + u8::from(v2) + u8::from(v3)
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_level() -> u8 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(platforms: &[&str]) -> Vec<Descriptor> {
        let entry = |(size, platform): (usize, &&str)| {
            let mut parts = platform.split('/');
            let mut next = || parts.next().unwrap_or("");
            let (os, arch, variant) = (next(), next(), next());
            let platform = match os {
                "" => String::new(),
                os => format!(
                    r#","platform":{{"os":"{os}","architecture":"{arch}"{}}}"#,
                    match variant {
                        "" => String::new(),
                        variant => format!(r#","variant":"{variant}""#),
                    }
                ),
            };
            let text = format!(
                r#"{{"mediaType":"m","digest":"sha256:{}","size":{size}{platform}}}"#,
                "a".repeat(64)
            );
            serde_json::from_str(&text).unwrap()
        };
        platforms.iter().enumerate().map(entry).collect()
    }

    #[track_caller]
    fn check(platforms: &[&str], want: &[u64]) {
        let entries = entries(platforms);
        let got: Vec<_> = candidates(&entries)
            .iter()
            .map(|entry| entry.size())
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn other_systems_and_attestations_are_passed_over() {
        let here = host();
        check(
            &["unknown/unknown", "windows/amd64", "linux/s390x", &here],
            &[3],
        );
        check(&["", &here], &[1, 0]);
        check(&["linux/s390x"], &[]);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_baseline_comes_first() {
        check(
            &["linux/amd64/v9", "linux/amd64/v1", "linux/amd64"],
            &[2, 1],
        );
    }
}
