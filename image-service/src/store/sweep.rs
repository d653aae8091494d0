//! Letting go: images with all their names, layers with their last user.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::Store;
use super::records::{Change, ImageRecord, Records};
use super::trash::Job;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};

impl Store {
    /// Blocks. The image is gone from every answer when this returns; its layers follow unless
    /// something holds them. An unknown image is no error.
    pub(crate) fn remove(self: &Arc<Self>, reference: &str) -> Result<(), Error> {
        let mut records = self.records();
        let Some(image) = self.resolve(reference) else {
            return Ok(());
        };
        let record = self.state().record(&image.id).cloned();
        let Some(record) = record else {
            return Ok(());
        };
        let change = forget(&image.id, &record);
        match records.write(&change) {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                // The database needs a page to write down that it needs fewer. The image's own
                // layers make room; a crash here loses them, and the start drops the image.
                self.state().remove_image(&image.id);
                self.discard(&mut records, Some(&record.layers))?;
                self.trash.empty()?;
                records.write(&change)?;
            }
            other => {
                other?;
                self.state().remove_image(&image.id);
            }
        }
        drop(records);
        self.janitor.ask(Job::Sweep(record.layers));
        Ok(())
    }

    /// Blocks. Takes a broken layer out of service: what uses it keeps it, and a pull gets it anew. An image that
    /// still needs it at the next start is dropped then.
    pub(crate) fn distrust(&self, layer: &str) -> Result<(), Error> {
        let mut records = self.records();
        let mut change = Change::default();
        change.layers.push((layer.to_owned(), None));
        records.write(&change)?;
        self.state().distrust(layer);
        Ok(())
    }

    /// Blocks: deletes the layers among `names`, or among all, that nothing needs.
    pub(super) fn sweep(&self, names: Option<&[String]>) -> Result<(), Error> {
        if !self.holds_known.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut records = self.records();
        let discarded = self.discard(&mut records, names);
        drop(records);
        self.trash.empty().and(discarded)
    }

    /// From now on every hold from before the start is known. Waits until the garbage is gone.
    pub(crate) async fn collect_garbage(&self) {
        self.holds_known.store(true, Ordering::Release);
        let (done, wait) = oneshot::channel();
        self.janitor.ask(Job::SweepAll(done));
        drop(wait.await);
    }

    /// Moves unused layers to the trash, then forgets them.
    fn discard(&self, records: &mut Records, names: Option<&[String]>) -> Result<(), Error> {
        let unused = if self.holds_known.load(Ordering::Acquire) {
            let mut state = self.state();
            let unused = state.unused(names);
            unused.iter().for_each(|name| state.remove_layer(name));
            unused
        } else {
            Vec::new()
        };
        let mut change = Change::default();
        for name in &unused {
            for path in self.places(name).files() {
                self.trash.take_path(path)?;
            }
            change.layers.push((name.clone(), None));
        }
        if change.layers.is_empty() {
            return Ok(());
        }
        match records.write(&change) {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                self.trash.empty()?;
                records.write(&change)
            }
            other => other,
        }
    }
}

fn forget(id: &str, record: &ImageRecord) -> Change {
    let mut change = Change::default();
    change.images.push((id.to_owned(), None));
    let documents = [Digest::parse(id), record.manifest];
    change
        .documents
        .extend(documents.into_iter().flatten().map(|digest| (digest, None)));
    change
}
