//! Images into one archive: an OCI layout that is a docker archive as well.
//!
//! Where blobs were kept, all is as it was pulled. Elsewhere layers are made again from what is unpacked, uncompressed: their
//! diff ids, and the image's id with them, are those that were pulled; the manifest is new, since it names other bytes.
//!
//! Rules: OCI image-spec v1.1, image-layout.md; Moby image specification v1.2, "Combined Image JSON + Filesystem Changeset
//! Format".

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corten_sys::private;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::config::{self, Image};
use crate::digest::{Algorithm, Digest};
use crate::error::{At as _, Error};
use crate::manifest::{self, Blob, Document};
use crate::store::Store;
use crate::tap::Tap;
use crate::tar_split::{Event, Rebuilt};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Blocks. Writes aside and renames: `path` has the whole archive, or what it had before.
pub(crate) fn save(store: &Arc<Store>, references: &[String], path: &Path) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let aside = path.with_file_name(name);
    let file = private::create(&aside).at("make", &aside)?;
    let written = write(store, references, file, &aside)
        .and_then(|()| fs::rename(&aside, path).at("rename to", path));
    if written.is_err() {
        // It says less than the error.
        fs::remove_file(&aside).ok();
    }
    written
}

fn write(store: &Arc<Store>, references: &[String], file: File, path: &Path) -> Result<(), Error> {
    let mut archive = Archive {
        builder: Builder::new(BufWriter::with_capacity(1 << 20, file)),
        path,
        blobs: Vec::new(),
        index: Vec::new(),
        docker: Vec::new(),
    };
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    for reference in references {
        let image = store
            .resolve(reference)
            .ok_or_else(|| Error::NotHere(reference.clone()))?;
        archive.image(store, &image, reference)?;
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": archive.index });
    archive.file("index.json", index.to_string().as_bytes())?;
    let docker = Value::from(std::mem::take(&mut archive.docker));
    archive.file("manifest.json", docker.to_string().as_bytes())?;
    archive.finish()
}

struct Archive<'a> {
    builder: Builder<BufWriter<File>>,
    path: &'a Path,
    /// Written so far: images share layers.
    blobs: Vec<Digest>,
    index: Vec<Value>,
    docker: Vec<Value>,
}

impl Archive<'_> {
    fn image(&mut self, store: &Arc<Store>, image: &Image, asked: &str) -> Result<(), Error> {
        let gone = || Error::NotHere(asked.to_owned());
        let hold = store.hold_layers(&image.layers).ok_or_else(gone)?;
        let id = Digest::parse(&image.id).ok_or_else(gone)?;
        let config = store.document(&id)?.ok_or_else(gone)?;
        let document = config::parse(&id, &config)?;
        let kept = Kept::find(store, image, hold.names())?;
        let (manifest, layers) = match &kept {
            Some(kept) => (kept.manifest.clone(), self.copy(kept)?),
            None => self.rebuild(store, hold.names(), &document.diff_ids, (id, config.len()))?,
        };
        let by = kept.as_ref().map_or(Algorithm::Sha256, |kept| kept.by);
        let digest = Digest::by(by, &manifest);
        let media_type = kept.as_ref().map_or(MANIFEST, |kept| &kept.media_type);
        self.blob(id, &config)?;
        self.blob(digest, &manifest)?;
        let descriptor = |annotations: Value| {
            json!({
                "mediaType": media_type,
                "digest": digest,
                "size": manifest.len(),
                "annotations": annotations,
            })
        };
        for tag in &image.repo_tags {
            let (_, short) = tag.rsplit_once(':').unwrap_or(("", tag));
            self.index.push(descriptor(json!({
                "io.containerd.image.name": tag,
                "org.opencontainers.image.ref.name": short,
            })));
        }
        if image.repo_tags.is_empty() {
            self.index.push(descriptor(json!({})));
        }
        let layers: Vec<_> = layers.iter().map(Digest::blob_name).collect();
        self.docker.push(json!({
            "Config": id.blob_name(),
            "RepoTags": image.repo_tags,
            "Layers": layers,
        }));
        Ok(())
    }

    /// The blobs as they came. Returns their digests.
    fn copy(&mut self, kept: &Kept) -> Result<Vec<Digest>, Error> {
        for (blob, path) in &kept.layers {
            if self.blobs.contains(&blob.digest) {
                continue;
            }
            self.blobs.push(blob.digest);
            let file = File::open(path).at("open", path)?;
            let name = blob.digest.blob_name();
            let appended =
                self.builder
                    .append_data(&mut header(blob.size), name, file.take(blob.size));
            appended.at("write", self.path)?;
        }
        Ok(kept.layers.iter().map(|(blob, _)| blob.digest).collect())
    }

    /// Layers made again, and a manifest of them. Returns that and their digests.
    fn rebuild(
        &mut self,
        store: &Store,
        names: &[String],
        diff_ids: &[Digest],
        (config, config_size): (Digest, usize),
    ) -> Result<(Vec<u8>, Vec<Digest>), Error> {
        let mut layers = Vec::new();
        for (name, diff_id) in names.iter().zip(diff_ids) {
            let size = self.layer(store, name, diff_id)?;
            layers.push(json!({ "mediaType": LAYER, "digest": diff_id, "size": size }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": config, "size": config_size },
            "layers": layers,
        });
        Ok((manifest.to_string().into_bytes(), diff_ids.to_vec()))
    }

    /// Unit: bytes of the blob.
    fn layer(&mut self, store: &Store, name: &str, diff_id: &Digest) -> Result<u64, Error> {
        let places = store.places(name);
        let root = File::open(&places.directory).at("open", &places.directory)?;
        let tar_split = File::open(&places.tar_split).at("open", &places.tar_split)?;
        let broken = |reason: String| Error::content(format!("layer {diff_id}"), reason);
        let mut trouble = None;
        let rebuilt = Rebuilt::new(tar_split, root.as_fd(), |event| trouble = Some(event));
        let rebuilt = rebuilt.at("read", &places.tar_split)?;
        let mut rebuilt = Tap::new(rebuilt, diff_id.algorithm());
        if self.blobs.contains(diff_id) {
            io::copy(&mut rebuilt, &mut io::sink()).at("read", &places.tar_split)?;
        } else {
            let mut header = header(0);
            let entry = self.builder.append_writer(&mut header, diff_id.blob_name());
            let mut entry = entry.at("write", self.path)?;
            io::copy(&mut rebuilt, &mut entry).at("write", self.path)?;
            entry.finish().at("write", self.path)?;
            self.blobs.push(*diff_id);
        }
        let (got, size) = rebuilt.finish();
        match trouble {
            Some(Event::Superseded(path)) => Err(broken(format!(
                "its archive wrote /{} twice, and the first of it is gone; pull the image where you need it",
                String::from_utf8_lossy(&path)
            ))),
            Some(Event::Changed { path, what }) => Err(broken(format!(
                "/{}: {what}; see `corten image verify`",
                String::from_utf8_lossy(&path)
            ))),
            None if got != *diff_id => Err(broken(
                "it has changed; see `corten image verify`".to_owned(),
            )),
            None => Ok(size),
        }
    }

    fn blob(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), Error> {
        if self.blobs.contains(&digest) {
            return Ok(());
        }
        self.blobs.push(digest);
        self.file(&digest.blob_name(), bytes)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut header = header(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let appended = self.builder.append_data(&mut header, name, bytes);
        appended.at("write", self.path)
    }

    fn finish(self) -> Result<(), Error> {
        let mut out = self.builder.into_inner().at("write", self.path)?;
        out.flush().at("write", self.path)?;
        out.get_ref().sync_all().at("fsync", self.path)
    }
}

/// An image of which every blob was kept.
struct Kept {
    manifest: Vec<u8>,
    /// Algorithm of the manifest's digest.
    by: Algorithm,
    media_type: String,
    layers: Vec<(Blob, PathBuf)>,
}

impl Kept {
    /// Reads all blobs: another manifest of the image may have come since, or a disk may have lied.
    fn find(store: &Store, image: &Image, names: &[String]) -> Result<Option<Self>, Error> {
        let manifest = match store.manifest_of(&image.id) {
            Some(digest) => store.document(&digest)?.map(|bytes| (digest, bytes)),
            None => None,
        };
        let Some((digest, manifest)) = manifest else {
            return Ok(None);
        };
        let Document::Manifest(parsed) = manifest::parse(&digest, &manifest)? else {
            return Ok(None);
        };
        let mut layers = Vec::new();
        for (blob, name) in parsed.layers(names.len())?.into_iter().zip(names) {
            let path = store.places(name).blob;
            let Ok(file) = File::open(&path) else {
                return Ok(None);
            };
            let mut read = Tap::new(file, blob.digest.algorithm());
            io::copy(&mut read, &mut io::sink()).at("read", &path)?;
            if read.finish() != (blob.digest, blob.size) {
                return Ok(None);
            }
            layers.push((blob, path));
        }
        let named: Value = serde_json::from_slice(&manifest).unwrap_or_default();
        let media_type = named["mediaType"].as_str().unwrap_or(MANIFEST).to_owned();
        Ok(Some(Self {
            manifest,
            by: digest.algorithm(),
            media_type,
            layers,
        }))
    }
}

/// The same image gives the same archive.
fn header(size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}
