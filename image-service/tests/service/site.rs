//! A store of its own for each test, and what must be true of it at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corten_image::{Error, ImageService, Options};
use tempfile::TempDir;

/// For the next pull to come back for what one has got.
const WINDOW: Duration = Duration::from_secs(600);

pub(crate) struct Site {
    dir: TempDir,
    pub(crate) images: ImageService,
}

impl Site {
    pub(crate) async fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make devices and trusted attributes: run them as root"
        );
        Self::new_in(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn new_in(dir: TempDir) -> Self {
        Self::new_with(dir, WINDOW).await
    }

    pub(crate) async fn new_with_window(window: Duration) -> Self {
        Self::new_with(tempfile::tempdir().unwrap(), window).await
    }

    /// One that waits so long for a byte.
    pub(crate) async fn waiting(progress_timeout: Duration, keep_blobs: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            progress_timeout,
            keep_blobs,
            ..options(dir.path(), WINDOW)
        };
        let images = ImageService::open(options).await.unwrap();
        images.collect_garbage().await;
        Self { dir, images }
    }

    /// One that may fetch layers from these hosts.
    pub(crate) async fn allowing(hosts: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            layer_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..options(dir.path(), WINDOW)
        };
        let images = ImageService::open(options).await.unwrap();
        images.collect_garbage().await;
        Self { dir, images }
    }

    /// One that keeps blobs.
    pub(crate) async fn keeping() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            keep_blobs: true,
            ..options(dir.path(), WINDOW)
        };
        let images = ImageService::open(options).await.unwrap();
        images.collect_garbage().await;
        Self { dir, images }
    }

    async fn new_with(dir: TempDir, window: Duration) -> Self {
        let images = open(dir.path(), window).await.unwrap();
        images.collect_garbage().await;
        Self { dir, images }
    }

    /// As after a crash: nothing was told, everything is read from disk.
    pub(crate) async fn reopen(self) -> Self {
        self.reopen_after(|| {}).await
    }

    /// With something done to the disk in between.
    pub(crate) async fn reopen_after(self, meanwhile: impl FnOnce()) -> Self {
        let Self { dir, images } = self;
        drop(images);
        // The last thread to let go of the store closes its database.
        let database = File::open(dir.path().join("root/images.redb")).unwrap();
        rustix::fs::flock(&database, rustix::fs::FlockOperation::LockExclusive).unwrap();
        drop(database);
        meanwhile();
        let images = open(dir.path(), WINDOW).await.unwrap();
        Self { dir, images }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write_hosts(&self, registry: &str, text: &str) {
        let dir = self.dir.path().join("certs.d").join(registry);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts.toml"), text).unwrap();
    }

    /// The directory of an image's only layer, or of its topmost.
    pub(crate) fn top_layer(&self, reference: &str) -> PathBuf {
        let image = self.images.resolve(reference).unwrap();
        self.root()
            .join("layers")
            .join(image.layers.last().unwrap())
    }

    /// Blobs that wait for the next pull.
    pub(crate) fn partial_blobs(&self) -> usize {
        let names = entries(&self.root().join("content"));
        names
            .iter()
            .filter(|name| !name.contains('.') && *name != "boot")
            .count()
    }

    /// Every layer is what its archive was.
    pub(crate) async fn assert_verified(&self) {
        let found = self.images.verify(false).await.unwrap();
        assert!(found.faults.is_empty(), "{:#?}", found.faults);
    }

    /// No unfinished work, and no layer but those of the images that are listed.
    pub(crate) fn assert_clean(&self) {
        let images = self.images.list();
        let mut layers: Vec<_> = images.iter().flat_map(|image| &image.layers).collect();
        layers.sort();
        layers.dedup();
        eventually(|| {
            let found = [
                entries(&self.root().join("staging")).len(),
                entries(&self.root().join("trash")).len(),
                entries(&self.root().join("layers")).len(),
                entries(&self.root().join("tar-split")).len(),
            ];
            (found == [0, 0, layers.len(), layers.len()])
                .then_some(())
                .ok_or(format!("staging, trash, layers, tar-splits: {found:?}"))
        });
        if images.is_empty() {
            assert_eq!(self.images.usage(), corten_image::Usage::default());
        }
    }
}

async fn open(dir: &Path, window: Duration) -> Result<ImageService, Error> {
    ImageService::open(options(dir, window)).await
}

fn options(dir: &Path, window: Duration) -> Options {
    Options {
        root: dir.join("root"),
        certs_dirs: vec![dir.join("certs.d")],
        max_concurrent_downloads: 3,
        progress_timeout: Duration::from_secs(1),
        resume_window: window,
        policy: Vec::new(),
        keep_blobs: false,
        pinned: vec!["*/pinned:*".to_owned()],
        layer_hosts: Vec::new(),
    }
}

pub(crate) fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Far above what a million files take to be deleted on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for a condition; the last complaint is the failure.
#[track_caller]
pub(crate) fn eventually<T>(mut condition: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(complaint) => assert!(Instant::now() < deadline, "{complaint}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
