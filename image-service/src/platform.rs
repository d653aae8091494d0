//! Which entry of an index is for this machine.
//!
//! Rule: OCI image-spec v1.1, image-index.md, "Platform Variants".

use crate::digest::Digest;
use crate::error::Error;
use crate::manifest::{self, Blob, Descriptor, Document, Manifest};

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

/// Architecture of the host by Go's name for it, as images have it.
pub(crate) fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Images that do not say what they are for are for here.
pub(crate) fn is_linux(os: &str) -> bool {
    os.is_empty() || os.eq_ignore_ascii_case("linux")
}

/// Whether an image that names this architecture, in whatever spelling, may run here.
pub(crate) fn is_ours(architecture: &str) -> bool {
    let (architecture, _) = common(architecture, "");
    runnable().iter().any(|(ours, _)| *ours == architecture)
}

const NO_PLATFORM: usize = 100;

fn rank(entry: &Descriptor) -> Option<usize> {
    let Some(platform) = &entry.platform else {
        return Some(NO_PLATFORM);
    };
    if !is_linux(&platform.os) {
        return None;
    }
    let (architecture, variant) = common(&platform.architecture, &platform.variant);
    runnable()
        .iter()
        .position(|known| *known == (architecture.as_str(), variant.as_str()))
}

/// Tools write what `uname` says, or a distribution's name.
///
/// Rule: containerd's platforms package, "Normalization", which other tools follow.
fn common(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (
        architecture.to_ascii_lowercase(),
        variant.to_ascii_lowercase(),
    );
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8") => ("arm64", "v8"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "7") => ("arm", "v7"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

/// Architectures and variants that run here, best first. The empty variant is what most images say. What an older processor
/// of the family ran comes last: an image that has nothing else is better run so than not at all.
fn runnable() -> &'static [(&'static str, &'static str)] {
    match host_arch() {
        // Built for levels above the baseline only if the image has nothing else.
        "amd64" => match x86_level() {
            3 => &[
                ("amd64", ""),
                ("amd64", "v1"),
                ("amd64", "v2"),
                ("amd64", "v3"),
                ("386", ""),
            ],
            2 => &[("amd64", ""), ("amd64", "v1"), ("amd64", "v2"), ("386", "")],
            _ => &[("amd64", ""), ("amd64", "v1"), ("386", "")],
        },
        "arm64" => &[
            ("arm64", "v8"),
            ("arm64", ""),
            ("arm64", "v8.0"),
            ("arm", "v8"),
            ("arm", "v7"),
            ("arm", ""),
            ("arm", "v6"),
            ("arm", "v5"),
        ],
        "arm" => &[("arm", "v7"), ("arm", ""), ("arm", "v6"), ("arm", "v5")],
        "386" => &[("386", "")],
        "ppc64le" => &[("ppc64le", "")],
        "s390x" => &[("s390x", "")],
        "riscv64" => &[("riscv64", "")],
        "loong64" => &[("loong64", "")],
        _ => &[],
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
            let index = format!(r#"{{"manifests":[{text}]}}"#);
            match manifest::parse(&Digest::of(b""), index.as_bytes()).unwrap() {
                Document::Index(mut entries) => entries.remove(0),
                Document::Manifest(_) => panic!("a manifest"),
            }
        };
        platforms.iter().enumerate().map(entry).collect()
    }

    #[track_caller]
    fn check(platforms: &[&str], want: &[u64]) {
        let entries = entries(platforms);
        let got: Vec<_> = candidates(&entries)
            .iter()
            .map(|entry| entry.size)
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

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_spelling_is_understood() {
        for here in [
            "Linux/amd64",
            "linux/x86_64",
            "LINUX/x86-64",
            "linux/AMD64",
            "linux/X86_64/V1",
        ] {
            check(&[here, "linux/arm64"], &[0]);
        }
        check(&["linux/x86_65", "macos/x86_64"], &[]);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_32_bits_run_comes_last() {
        check(&["linux/386", "linux/amd64"], &[1, 0]);
        check(&["linux/arm", "linux/i386"], &[1]);
        assert!(is_ours("i686") && is_ours("x86_64") && !is_ours("arm64"));
    }
}
