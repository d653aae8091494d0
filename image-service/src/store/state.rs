//! The memory side: images by every name, layers with their holds. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Usage;
use super::records::{ImageRecord, LayerRecord};
use crate::config::{Image, ImageConfig};
use crate::digest::Digest;
use crate::pins::Pins;
use crate::reference::{Reference, Version};

/// Fewer digits are too likely to be part of a name that someone mistyped.
const MIN_SHORT_ID: usize = 4;

#[derive(Debug, Default)]
pub(super) struct State {
    pins: Pins,
    images: BTreeMap<String, Entry>,
    /// Tags and digests to ids.
    names: HashMap<String, String>,
    layers: HashMap<String, Layer>,
    chains: HashMap<Digest, String>,
}

#[derive(Debug)]
struct Entry {
    image: Arc<Image>,
    record: ImageRecord,
}

#[derive(Debug)]
struct Layer {
    /// `None` if the directory was found without a record: only containers may still use it.
    record: Option<LayerRecord>,
    holds: usize,
}

impl State {
    pub(super) fn new(pins: Pins) -> Self {
        Self {
            pins,
            ..Self::default()
        }
    }

    pub(super) fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values().map(|entry| &entry.image)
    }

    pub(super) fn record(&self, id: &str) -> Option<&ImageRecord> {
        self.images.get(id).map(|entry| &entry.record)
    }

    pub(super) fn owner(&self, name: &str) -> Option<&str> {
        self.names.get(name).map(String::as_str)
    }

    /// Names win over short ids: `cafe` may be both.
    pub(super) fn resolve(&self, reference: &str) -> Option<Arc<Image>> {
        let id = match Reference::parse(reference) {
            Ok(reference) => {
                let name = match reference.version() {
                    Version::Tag(_) => reference.to_string(),
                    Version::Digest(digest) => reference.repo_digest(digest),
                };
                self.owner(&name)
            }
            Err(_) => None,
        };
        let id = id.or_else(|| self.by_id(reference))?;
        self.images.get(id).map(|entry| Arc::clone(&entry.image))
    }

    fn by_id(&self, text: &str) -> Option<&str> {
        let (algorithm, hex) = text.split_once(':').unwrap_or(("sha256", text));
        let is_hex = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || hex.len() < MIN_SHORT_ID {
            return None;
        }
        let prefix = format!("{algorithm}:{hex}");
        let mut matches = self
            .images
            .range(prefix.clone()..)
            .map(|(id, _)| id.as_str())
            .take_while(|id| id.starts_with(&prefix));
        match (matches.next(), matches.next()) {
            (Some(id), None) => Some(id),
            _ => None,
        }
    }

    pub(super) fn put_image(&mut self, id: &str, record: ImageRecord, config: ImageConfig) {
        self.remove_image(id);
        for name in record.repo_tags.iter().chain(&record.repo_digests) {
            self.names.insert(name.clone(), id.to_owned());
        }
        let image = Arc::new(Image {
            id: id.to_owned(),
            repo_tags: record.repo_tags.clone(),
            repo_digests: record.repo_digests.clone(),
            size: record.documents_size + self.layers_size(&record.layers),
            config,
            layers: record.layers.clone(),
            pinned: record.pinned
                || self
                    .pins
                    .hold(record.repo_tags.iter().chain(&record.repo_digests)),
        });
        self.images.insert(id.to_owned(), Entry { image, record });
    }

    pub(super) fn remove_image(&mut self, id: &str) -> Option<ImageRecord> {
        let entry = self.images.remove(id)?;
        self.names.retain(|_, owner| owner != id);
        Some(entry.record)
    }

    pub(super) fn config(&self, id: &str) -> Option<&ImageConfig> {
        self.images.get(id).map(|entry| &entry.image.config)
    }

    pub(super) fn has_layer(&self, name: &str) -> bool {
        self.layers.contains_key(name)
    }

    /// True if the directory is known to be complete.
    pub(super) fn is_recorded(&self, name: &str) -> bool {
        let layer = self.layers.get(name);
        layer.is_some_and(|layer| layer.record.is_some())
    }

    pub(super) fn layer_of(&self, chain: &Digest) -> Option<&str> {
        self.chains.get(chain).map(String::as_str)
    }

    pub(super) fn put_layer(&mut self, name: &str, record: Option<LayerRecord>) {
        if let Some(record) = &record {
            self.chains.insert(record.chain, name.to_owned());
        }
        let layer = self.layers.entry(name.to_owned());
        layer
            .or_insert(Layer {
                record: None,
                holds: 0,
            })
            .record = record;
    }

    pub(super) fn remove_layer(&mut self, name: &str) {
        let Some(layer) = self.layers.remove(name) else {
            return;
        };
        if let Some(record) = layer.record {
            self.forget_chain(&record.chain, name);
        }
    }

    /// Nothing but what uses the layer now will.
    pub(super) fn distrust(&mut self, name: &str) {
        let layer = self.layers.get_mut(name);
        if let Some(record) = layer.and_then(|layer| layer.record.take()) {
            self.forget_chain(&record.chain, name);
        }
    }

    fn forget_chain(&mut self, chain: &Digest, name: &str) {
        if self.chains.get(chain).is_some_and(|owner| owner == name) {
            self.chains.remove(chain);
        }
    }

    pub(super) fn layers(&self) -> impl Iterator<Item = (&String, &LayerRecord)> {
        let layers = self.layers.iter();
        layers.filter_map(|(name, layer)| Some((name, layer.record.as_ref()?)))
    }

    pub(super) fn add_holds(&mut self, names: &[String]) {
        for name in names {
            if let Some(layer) = self.layers.get_mut(name) {
                layer.holds += 1;
            }
        }
    }

    /// Returns the layers that nothing needs any more.
    pub(super) fn release_holds(&mut self, names: &[String]) -> Vec<String> {
        for name in names {
            if let Some(layer) = self.layers.get_mut(name) {
                layer.holds = layer.holds.saturating_sub(1);
            }
        }
        self.unused(Some(names))
    }

    /// Layers without image and hold, among `names` or among all.
    pub(super) fn unused(&self, names: Option<&[String]>) -> Vec<String> {
        let used: HashSet<&str> = self
            .images
            .values()
            .flat_map(|entry| &entry.record.layers)
            .map(String::as_str)
            .collect();
        let is_unused = |name: &&String| {
            let layer = self.layers.get(name.as_str());
            layer.is_some_and(|layer| layer.holds == 0) && !used.contains(name.as_str())
        };
        match names {
            Some(names) => names.iter().filter(is_unused).cloned().collect(),
            None => self.layers.keys().filter(is_unused).cloned().collect(),
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let layers = self
            .layers
            .values()
            .filter_map(|layer| layer.record.as_ref());
        let mut usage = layers.fold(Usage::default(), |sum, record| Usage {
            bytes: sum.bytes + record.bytes,
            inodes: sum.inodes + record.inodes,
        });
        for entry in self.images.values() {
            usage.bytes += entry.record.documents_size;
        }
        usage
    }

    /// What goes with these images, if nothing else needs it. Unit: bytes.
    pub(super) fn freed_by(&self, ids: &[String]) -> u64 {
        let (going, staying): (Vec<_>, Vec<_>) =
            self.images.iter().partition(|(id, _)| ids.contains(id));
        let kept: HashSet<&String> = staying
            .iter()
            .flat_map(|(_, entry)| &entry.record.layers)
            .collect();
        let mut layers: HashSet<&String> = going
            .iter()
            .flat_map(|(_, entry)| &entry.record.layers)
            .collect();
        layers.retain(|name| {
            let holds = self.layers.get(*name).map_or(0, |layer| layer.holds);
            holds == 0 && !kept.contains(name)
        });
        let documents = going.iter().map(|(_, entry)| entry.record.documents_size);
        let layers: Vec<String> = layers.into_iter().cloned().collect();
        documents.sum::<u64>() + self.layers_size(&layers)
    }

    /// Directories of layers that no image needs, and their bytes as far as they are known.
    pub(super) fn without_image(&self) -> (u64, u64) {
        let used: HashSet<&String> = self
            .images
            .values()
            .flat_map(|entry| &entry.record.layers)
            .collect();
        let unused = self.layers.iter().filter(|(name, _)| !used.contains(name));
        unused.fold((0, 0), |(count, bytes), (_, layer)| {
            let size = layer.record.as_ref().map_or(0, |record| record.bytes);
            (count + 1, bytes + size)
        })
    }

    fn layers_size(&self, names: &[String]) -> u64 {
        let sizes = names.iter().filter_map(|name| {
            let record = self.layers.get(name)?.record.as_ref()?;
            Some(record.bytes)
        });
        sizes.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(fill: &str) -> String {
        format!("sha256:{}", fill.repeat(64 / fill.len()))
    }

    fn state() -> State {
        let mut state = State::default();
        let record = |tag: &str, layers: &[&str]| ImageRecord {
            repo_tags: vec![tag.to_owned()],
            repo_digests: vec![format!("docker.io/library/app@{}", Digest::of(b"m"))],
            layers: layers.iter().map(|&name| name.to_owned()).collect(),
            manifest: None,
            documents_size: 10,
            pinned: false,
        };
        for name in ["base", "top", "other"] {
            let record = LayerRecord {
                chain: Digest::of(name.as_bytes()),
                bytes: 4096,
                inodes: 2,
                diff_id: None,
                committed: 0,
            };
            state.put_layer(name, Some(record));
        }
        let app = record("docker.io/library/app:v1", &["base", "top"]);
        state.put_image(&id("cafe"), app, ImageConfig::default());
        let hex = record("docker.io/library/cafd:latest", &["base"]);
        state.put_image(&id("cafd"), hex, ImageConfig::default());
        state
    }

    #[track_caller]
    fn check(reference: &str, want: Option<&str>) {
        let got = state().resolve(reference).map(|image| image.id.clone());
        assert_eq!(got, want.map(id), "{reference}");
    }

    #[test]
    fn every_kind_of_name_leads_to_the_image() {
        check("app:v1", Some("cafe"));
        check("docker.io/library/app:v1", Some("cafe"));
        check("app", None);
        check(&id("cafe"), Some("cafe"));
        check(&id("cafe")["sha256:".len()..], Some("cafe"));
        check("cafecafecafec", Some("cafe"));
        check("sha256:cafeca", Some("cafe"));
        check("caf", None);
        check("cafd", Some("cafd"));
        check(&format!("app@{}", Digest::of(b"x")), None);
        check("", None);
        check("sha256:", None);
        check("UPPER", None);
    }

    #[test]
    fn a_layer_is_unused_when_images_and_holds_are_gone() {
        let mut state = state();
        assert_eq!(state.unused(None), ["other"]);
        state.remove_image(&id("cafe"));
        let mut unused = state.unused(None);
        unused.sort();
        assert_eq!(unused, ["other", "top"]);
        let held = ["top".to_owned(), "base".to_owned()];
        state.add_holds(&held);
        assert_eq!(state.unused(None), ["other"]);
        assert_eq!(state.release_holds(&held), ["top"]);
    }

    #[test]
    fn usage_counts_shared_layers_once() {
        let usage = state().usage();
        assert_eq!((usage.bytes, usage.inodes), (3 * 4096 + 20, 6));
    }
}
