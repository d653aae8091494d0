//! A tar file with random access to its members.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{At as _, Error};
use crate::store::{StagedPath, Staging};
use crate::unpack::{self, Kind};

/// Blobs of all images in one archive, and the folders around them.
const MAX_MEMBERS: usize = 100_000;

#[derive(Debug)]
pub(crate) struct Archive {
    subject: String,
    file: Arc<File>,
    members: HashMap<String, Member>,
    /// The inflated copy of a compressed archive, deleted with this.
    _inflated: Option<StagedPath>,
}

#[derive(Debug)]
enum Member {
    Section {
        offset: u64,
        size: u64,
    },
    /// Old docker archives link a layer that two images share.
    Link(String),
}

impl Archive {
    /// Blocks. A compressed archive is inflated into `staging` first, since its index may be last.
    pub(crate) fn open(path: &Path, staging: &Staging) -> Result<Self, Error> {
        let subject = format!("archive {}", path.display());
        let given = File::open(path).at("open", path)?;
        let mut buffered = BufReader::new(&given);
        let is_tar = !unpack::is_compressed(&mut buffered).at("read", path)?;
        let (file, inflated) = if is_tar {
            drop(buffered);
            (given, None)
        } else {
            let (staged, mut copy) = staging.file()?;
            let mut source = unpack::decode(&mut buffered).at("read", path)?;
            io::copy(&mut source, &mut copy).at("inflate", path)?;
            drop(source);
            (copy, Some(staged))
        };
        (&file).rewind().at("read", path)?;
        Ok(Self {
            members: members(&subject, &file)?,
            subject,
            file: Arc::new(file),
            _inflated: inflated,
        })
    }

    /// For messages.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    pub(crate) fn reader(&self, name: &str) -> Result<Section, Error> {
        let mut name = name;
        // A link to a link is nobody's archive.
        for _ in 0..2 {
            match self.members.get(name) {
                None => break,
                Some(Member::Link(target)) => name = target,
                Some(Member::Section { offset, size }) => {
                    return Ok(Section {
                        file: Arc::clone(&self.file),
                        at: *offset,
                        left: *size,
                    });
                }
            }
        }
        Err(Error::content(
            &self.subject,
            format!("it has no file {name:?}"),
        ))
    }

    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let mut section = self.reader(name)?;
        if section.left > limit {
            let reason = format!("{name:?} has {} bytes, the limit is {limit}", section.left);
            return Err(Error::content(&self.subject, reason));
        }
        let mut bytes = Vec::new();
        section.read_to_end(&mut bytes).at("read", name)?;
        Ok(bytes)
    }

    /// The blob of an OCI layout, verified.
    pub(super) fn blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let bytes = self.read(&digest.blob_name(), limit)?;
        match Digest::by(digest.algorithm(), &bytes) {
            got if got == *digest => Ok(bytes),
            got => Err(Error::digest(
                format!("blob in {}", self.subject),
                digest,
                &got,
            )),
        }
    }
}

fn members(subject: &str, file: &File) -> Result<HashMap<String, Member>, Error> {
    let mut archive = unpack::Archive::new(file);
    let mut members = HashMap::new();
    loop {
        let member = archive
            .next()
            .map_err(|fault| Error::content(subject, fault.reason()))?;
        let Some(member) = member else {
            return Ok(members);
        };
        let name = String::from_utf8_lossy(&member.name);
        let name = name.trim_start_matches("./").to_owned();
        let found = match member.kind {
            Kind::File { sparse: None } => Member::Section {
                offset: position(archive.source()).at("read", subject)?,
                size: archive.left(),
            },
            Kind::Symlink { target } => {
                Member::Link(beside(&name, &String::from_utf8_lossy(&target)))
            }
            Kind::Hardlink { target } => Member::Link(String::from_utf8_lossy(&target).into()),
            _ => continue,
        };
        if members.len() >= MAX_MEMBERS {
            return Err(Error::content(subject, "it has more than 100000 files"));
        }
        // Readers differ on which of two files of one name counts: refuse both.
        if members.insert(name.clone(), found).is_some() {
            return Err(Error::content(subject, format!("it has {name:?} twice")));
        }
    }
}

fn position(mut file: &File) -> io::Result<u64> {
    file.stream_position()
}

/// Where a relative link in the folder of `name` leads, as a name in the archive.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A member's bytes.
#[derive(Debug)]
pub(crate) struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX);
        let want = want.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..want], self.at)?;
        let read_u64 = u64::try_from(read).unwrap_or(self.left);
        self.at += read_u64;
        self.left -= read_u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_archive() {
        assert_eq!(beside("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(beside("layer.tar", "x.tar"), "x.tar");
        assert_eq!(beside("a/b", "../../../../etc/passwd"), "etc/passwd");
    }
}
