//! The facade that the daemon uses.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::blocking::blocking;
use crate::config::Image;
use crate::content::Content;
use crate::error::Error;
use crate::layers::Layers;
use crate::load;
use crate::pins::Pins;
use crate::policy::{Policy, PolicyRule};
use crate::progress::{Progress, Pulls};
use crate::pull;
use crate::registry::{Auth, Registry};
use crate::save;
use crate::space::{self, DiskUsage, Inspection};
use crate::store::{LayerHold, Store, Usage};
use crate::verify::{self, RECENT, Shutdown, Verification};

/// Where images live and how they are fetched.
#[derive(Debug, Clone)]
pub struct Options {
    /// Durable, on a file system that overlay can use; the service keeps `images.redb`, `layers/`, `blobs/`,
    /// `content/`, `staging/`, `trash/` and `quarantine/` there.
    pub root: PathBuf,
    /// Folders with `<registry>/hosts.toml`; the first that knows a registry wins.
    pub certs_dirs: Vec<PathBuf>,
    /// Layers of one pull that are fetched and unpacked at a time. Pulls share all of these but one each.
    pub max_concurrent_downloads: usize,
    /// A transfer without a byte for this long is given up.
    pub progress_timeout: Duration,
    /// What a pull has got before it failed or was killed waits this long for the next one.
    pub resume_window: Duration,
    /// Blobs stay after they are unpacked, for [`ImageService::save`].
    pub keep_blobs: bool,
    /// Names of images that are pinned; `*` stands for any characters.
    pub pinned: Vec<String>,
    /// Whose images may come in; empty for all.
    pub policy: Vec<PolicyRule>,
    /// Shape: `https://host.example`. Hosts that layers may be fetched from which a registry does not have, where an image's
    /// manifest says that they lie there.
    pub layer_hosts: Vec<String>,
}

/// How often to look for what nobody came back for.
const EXPIRY: Duration = Duration::from_secs(30);

/// The images of this node. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct ImageService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Arc<Store>,
    pub(crate) content: Content,
    pub(crate) registry: Registry,
    pub(crate) layers: Layers,
    pub(crate) pulls: Pulls,
    pub(crate) policy: Policy,
    shutdown: Shutdown,
}

impl ImageService {
    /// Drops what a crash left unfinished. A database that cannot be read is set aside and told by
    /// [`ImageService::conditions`]: it does not keep the node down.
    ///
    /// # Errors
    /// If the root cannot be used, or another process uses it.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let (root, pins) = (options.root, Pins::new(&options.pinned));
        let opening = move || {
            let content = Content::open(root.join("content"))?;
            let store = Store::open(&root, content.is_same_boot(), pins)?;
            Ok((store, content, Shutdown::begin(&root)?))
        };
        let (store, content, (shutdown, was_clean)) =
            blocking("opening the image store", opening).await?;
        let is_suspect = !was_clean && !content.is_same_boot();
        tokio::spawn(expire(
            Arc::downgrade(&store),
            content.clone(),
            options.resume_window,
        ));
        let registry = Registry::new(
            options.certs_dirs,
            &options.layer_hosts,
            options.progress_timeout,
        )?;
        let layers = Layers::new(
            Arc::clone(&store),
            content.clone(),
            options.max_concurrent_downloads,
            options.keep_blobs,
        );
        let inner = Arc::new(Inner {
            layers,
            store,
            content,
            registry,
            pulls: Pulls::default(),
            policy: Policy::new(options.policy),
            shutdown,
        });
        if is_suspect {
            tokio::spawn(verify_recent(Arc::clone(&inner)));
        }
        Ok(Self { inner })
    }

    /// An orderly end: the next start knows that no power was cut under the store.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn close(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking("closing the image store", move || inner.shutdown.complete()).await
    }

    /// Fetches what is missing, verifies all of it, and returns the image. Runs in the caller's task:
    /// dropping the future stops it and leaves nothing behind.
    ///
    /// # Errors
    /// Any kind; the text of registry errors has one part for each host that was asked.
    pub async fn pull(&self, reference: &str, auth: Option<Auth>) -> Result<Arc<Image>, Error> {
        pull::pull(&self.inner, reference, auth).await
    }

    /// The pull of `reference` that runs now.
    pub fn progress(&self, reference: &str) -> Option<Arc<Progress>> {
        self.inner.pulls.of(reference)
    }

    /// Compares every layer with the archive it was pulled as, by digest and entry by entry. With `repair`, what is
    /// broken is pulled again, without credentials; an image that cannot be is removed.
    ///
    /// # Errors
    /// Of the disk. Dropping the future stops it after the layer at hand.
    pub async fn verify(&self, repair: bool) -> Result<Verification, Error> {
        verify::verify(&self.inner, self.inner.store.subjects(), repair).await
    }

    /// Loads all images of an OCI layout or docker archive (tar, may be compressed). Returns their
    /// names, or the id of an image without a name.
    ///
    /// # Errors
    /// Content, Digest, Unsupported, Io. Images before the broken one are loaded.
    pub async fn load(&self, archive: &Path) -> Result<Vec<String>, Error> {
        load::load(&self.inner, archive).await
    }

    /// Writes the images to one archive, an OCI layout that is a docker archive too: as they were pulled where blobs were
    /// kept, else with layers made again from what is unpacked, uncompressed: ids stay, manifests are new. `archive` is
    /// replaced once all is written.
    ///
    /// # Errors
    /// NotFound; Content, if a layer is broken or cannot be made again; Io.
    pub async fn save(&self, references: &[String], archive: &Path) -> Result<(), Error> {
        let store = Arc::clone(&self.inner.store);
        let (references, archive) = (references.to_vec(), archive.to_owned());
        blocking("saving images", move || {
            save::save(&store, &references, &archive)
        })
        .await
    }

    /// All that is known of an image; `None` if it is not here.
    ///
    /// # Errors
    /// Records, if the database cannot be read.
    pub async fn inspect(&self, reference: &str) -> Result<Option<Inspection>, Error> {
        let store = Arc::clone(&self.inner.store);
        let reference = reference.to_owned();
        blocking("reading the image", move || {
            space::inspect(&store, &reference)
        })
        .await
    }

    /// Where the disk goes.
    ///
    /// # Errors
    /// Io.
    pub async fn disk_usage(&self) -> Result<DiskUsage, Error> {
        let inner = Arc::clone(&self.inner);
        blocking("counting", move || {
            space::usage(&inner.store, &inner.content)
        })
        .await
    }

    /// From memory: what removing these images, by id, gives back. Unit: bytes.
    pub fn freed_by(&self, ids: &[String]) -> u64 {
        self.inner.store.freed_by(ids)
    }

    /// From memory.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.inner.store.list()
    }

    /// From memory: by tag, by digest, by id, by an id's unique beginning.
    pub fn resolve(&self, reference: &str) -> Option<Arc<Image>> {
        self.inner.store.resolve(reference)
    }

    /// Removes the image with all its names, by any of them. Unknown is fine. Layers that a
    /// [`LayerHold`] needs stay until it is dropped.
    ///
    /// # Errors
    /// Records, if the database cannot be written.
    pub async fn remove(&self, reference: &str) -> Result<(), Error> {
        let store = Arc::clone(&self.inner.store);
        let reference = reference.to_owned();
        blocking("removing the image", move || store.remove(&reference)).await
    }

    /// From memory: what images take on disk, as it was counted when they were unpacked.
    pub fn usage(&self) -> Usage {
        self.inner.store.usage()
    }

    /// Keeps the image's layers on disk. For an image that was removed a moment ago, resolve it
    /// again: the hold may then be empty-handed, which `None` tells.
    pub fn hold(&self, image: &Image) -> Option<LayerHold> {
        self.hold_layers(&image.layers)
    }

    /// The same from a container's record. `None` if a layer is gone.
    pub fn hold_layers(&self, layers: &[String]) -> Option<LayerHold> {
        self.inner.store.hold_layers(layers)
    }

    /// Deletes layers that neither an image nor a hold needs. Nothing is deleted before the first
    /// call: holds of containers from before a restart must be taken first.
    pub async fn collect_garbage(&self) {
        self.inner.store.collect_garbage().await;
    }

    /// What an operator should know, in sentences; empty if all is well.
    pub fn conditions(&self) -> Vec<String> {
        self.inner.store.conditions()
    }
}

/// After the machine went down under the store: the disk may have lied about what was durable.
async fn verify_recent(inner: Arc<Inner>) {
    let mut subjects = inner.store.subjects();
    let newest = subjects.iter().map(|subject| subject.committed).max();
    subjects.retain(|subject| Some(subject.committed.saturating_add(RECENT)) >= newest);
    if subjects.is_empty() {
        return;
    }
    tracing::info!(
        layers = subjects.len(),
        "verifying the last layers after an unclean shutdown"
    );
    match verify::verify(&inner, subjects, true).await {
        Ok(found) => tracing::info!(
            layers = found.layers,
            broken = found.faults.len(),
            "the last layers are verified"
        ),
        Err(error) => tracing::warn!(%error, "the last layers are not verified"),
    }
}

/// Ends with the store.
async fn expire(store: Weak<Store>, content: Content, age: Duration) {
    loop {
        tokio::time::sleep(EXPIRY.min(age)).await;
        let (Some(store), content) = (store.upgrade(), content.clone()) else {
            return;
        };
        let swept = blocking("dropping partial layers", move || {
            store.staging().expire(age);
            content.expire(age)
        });
        if let Err(error) = swept.await {
            tracing::warn!(%error, "partial layers are not dropped");
        }
    }
}
