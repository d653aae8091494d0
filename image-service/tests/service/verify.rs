//! Layers against the archives that they were pulled as.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use corten_image::Verification;
use rustix::fs::{OFlags, XattrFlags, removexattr, setxattr};
use tar::EntryType;

use crate::fake::Fake;
use crate::image::{Image, file, image};
use crate::site::{Site, eventually};
use crate::tree::{Pack, Tar};

/// One of everything that can change.
fn rich() -> Vec<u8> {
    Tar::new()
        .dir("d")
        .file("d/file", &b"content ".repeat(100))
        .hardlink("d/hard", "d/file")
        .symlink("d/soft", "/d/file")
        .device("d/null", EntryType::Char, 1, 3)
        .entry("d/fifo", EntryType::Fifo, b"", |_| {})
        .pax(&[("SCHILY.xattr.user.colour", b"blue")])
        .entry("d/owned", EntryType::Regular, b"x", |header| {
            header.set_uid(70_000);
            header.set_mode(0o4755);
        })
        .pax(&[
            ("GNU.sparse.size", b"200000"),
            ("GNU.sparse.map", b"0,3,100000,2"),
        ])
        .file("d/sparse", b"01234")
        .file("d/empty", b"")
        .dir("emptied")
        .file("emptied/.wh..wh..opq", b"")
        .file(".wh.gone", b"")
        .file("implied/by/name", b"x")
        .bytes()
}

/// The base has the file `hello`.
fn two_layers() -> Image {
    image("rich", &[(file("base"), Pack::Zstd), (rich(), Pack::Gzip)])
}

struct Pulled {
    site: Site,
    registry: Fake,
    reference: String,
}

impl Pulled {
    async fn new() -> Self {
        let site = Site::new().await;
        let registry = Fake::serving(two_layers(), |_| None).await;
        let reference = registry.reference();
        site.images.pull(&reference, None).await.unwrap();
        Self {
            site,
            registry,
            reference,
        }
    }

    fn top(&self) -> PathBuf {
        self.site.top_layer(&self.reference)
    }

    async fn verify(&self, repair: bool) -> Verification {
        self.site.images.verify(repair).await.unwrap()
    }

    /// After this damage, verifying names the path and says so, and the other layer is sound.
    async fn finds(&self, damage: impl FnOnce(&Path), difference: &str) {
        damage(&self.top());
        let found = self.verify(false).await;
        assert_eq!((found.layers, found.faults.len()), (2, 1), "{difference}");
        let fault = &found.faults[0];
        assert_eq!(fault.images, [self.reference.as_str()]);
        assert!(
            fault.differences.iter().any(|got| got.contains(difference)),
            "{:?} has no {difference:?}",
            fault.differences
        );
    }
}

async fn finds(damage: impl FnOnce(&Path), difference: &str) {
    Pulled::new().await.finds(damage, difference).await;
}

/// What a disk does: no time changes.
fn spoil(path: &Path) {
    let times = fs::metadata(path).unwrap().modified().unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.write_at(b"C", 0).unwrap();
    file.set_modified(times).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_is_as_it_was() {
    let pulled = Pulled::new().await;
    let found = pulled.verify(false).await;
    assert_eq!((found.layers, &found.faults[..]), (2, &[][..]));
    assert!(found.unchecked.is_empty() && found.bytes > 4096);
    let site = pulled.site.reopen().await;
    assert_eq!(site.images.verify(true).await.unwrap(), found);
}

/// A later entry of an archive may give a file's name to a FIFO, or to a device, which acts when it is opened.
#[tokio::test(flavor = "multi_thread")]
async fn what_took_a_files_name_is_not_opened() {
    let layer = Tar::new()
        .file("d/name", b"content")
        .entry("d/name", EntryType::Fifo, b"", |_| {})
        .bytes();
    let site = Site::new().await;
    let registry = Fake::serving(image("taken", &[(layer, Pack::Gzip)]), |_| None).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    let fifo = site.top_layer(&reference).join("d/name");
    let (send, receive) = mpsc::channel();
    let writer = thread::spawn({
        let fifo = fifo.clone();
        move || {
            send.send(fs::read_link("/proc/thread-self").unwrap())
                .unwrap();
            // Waits for a reader, and be it for a moment (fifo(7)).
            File::options().write(true).open(fifo).unwrap();
        }
    });
    let waits_in = Path::new("/proc")
        .join(receive.recv().unwrap())
        .join("wchan");
    let waits = || match fs::read_to_string(&waits_in) {
        Ok(place) if place.contains("partner") => Ok(()),
        place => Err(format!("{place:?}")),
    };
    eventually(waits);
    let found = site.images.verify(false).await.unwrap();
    assert_eq!(found.layers, 1);
    assert_eq!(waits(), Ok(()));
    let mut reader = File::options();
    reader
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let _reader = reader.open(fifo).unwrap();
    writer.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_found_and_named() {
    finds(
        |top| spoil(&top.join("d/file")),
        "/d/file: its content has changed",
    )
    .await;
    finds(
        |top| spoil(&top.join("d/sparse")),
        "/d/sparse: its content has changed",
    )
    .await;
    let cut = |top: &Path| {
        let file = File::options().write(true).open(top.join("d/file"));
        file.unwrap().set_len(700).unwrap();
    };
    finds(cut, "/d/file: it is shorter").await;
    finds(cut, "/d/file: its size is 700, not 800").await;
    finds(
        |top| fs::remove_file(top.join("d/file")).unwrap(),
        "/d/file: it is missing",
    )
    .await;
    finds(
        |top| fs::remove_dir_all(top.join("d")).unwrap(),
        "/d/null: its directory is missing",
    )
    .await;
    let mode = |top: &Path| fs::set_permissions(top.join("d/owned"), Permissions::from_mode(0o755));
    finds(
        |top| mode(top).unwrap(),
        "/d/owned: its mode is \"755\", not \"4755\"",
    )
    .await;
    finds(
        |top| chown(top.join("d"), Some(1), None).unwrap(),
        "/d: its owner is (1, 0)",
    )
    .await;
    let touch = |top: &Path| {
        let empty = File::open(top.join("d/empty")).unwrap();
        empty.set_modified(std::time::SystemTime::now()).unwrap();
    };
    finds(touch, "/d/empty: its time is").await;
    let uncolour = |top: &Path| {
        setxattr(
            top.join("d/owned"),
            "user.colour",
            b"red",
            XattrFlags::empty(),
        )
    };
    finds(
        |top| uncolour(top).unwrap(),
        "/d/owned: its attribute user.colour",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_links_and_marks_are_found() {
    let relink = |top: &Path| {
        fs::remove_file(top.join("d/soft")).unwrap();
        symlink("/etc", top.join("d/soft")).unwrap();
    };
    finds(relink, "/d/soft: it points elsewhere").await;
    let copy = |top: &Path| {
        fs::copy(top.join("d/file"), top.join("copy")).unwrap();
        fs::rename(top.join("copy"), top.join("d/hard")).unwrap();
    };
    finds(copy, "/d/hard: it is no hard link").await;
    let retype = |top: &Path| {
        fs::remove_file(top.join("d/fifo")).unwrap();
        fs::write(top.join("d/fifo"), "").unwrap();
    };
    finds(retype, "/d/fifo: it is a RegularFile, not a Fifo").await;
    let unmark = |top: &Path| removexattr(top.join("emptied"), "trusted.overlay.opaque").unwrap();
    finds(unmark, "/emptied: it is not opaque").await;
    finds(
        |top| fs::remove_file(top.join("gone")).unwrap(),
        "/gone: it is missing",
    )
    .await;
    let add = |top: &Path| fs::write(top.join("implied/by/stranger"), "").unwrap();
    finds(add, "/implied/by/stranger: it is in no entry").await;
    let add = |top: &Path| fs::create_dir(top.join("stranger")).unwrap();
    finds(add, "/stranger: it is in no entry").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tar_split_file_is_a_fault() {
    let pulled = Pulled::new().await;
    let name = pulled.top().file_name().unwrap().to_owned();
    let path = pulled.site.root().join("tar-split").join(name);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    pulled
        .finds(|_| {}, "what was kept of its archive cannot be read")
        .await;
    let mut other = whole.clone();
    other[whole.len() / 2] ^= 0x10;
    fs::write(&path, &other).unwrap();
    assert_eq!(pulled.verify(false).await.faults.len(), 1);
    fs::remove_file(&path).unwrap();
    pulled
        .finds(|_| {}, "what was kept of its archive cannot be read")
        .await;
    assert_eq!(pulled.verify(true).await.repairs[0].error, None);
    assert!(pulled.verify(false).await.faults.is_empty());
}

/// Archives that cannot be made again byte for byte are compared entry by entry.
#[tokio::test(flavor = "multi_thread")]
async fn layers_that_take_back_what_they_wrote() {
    let layer = Tar::new()
        .dir("a")
        .file("a/file", b"first")
        .file("a/file", b"second")
        .symlink("a/link", "/elsewhere")
        .dir("b")
        .file("b/lost", b"with its directory")
        .file("b", b"a file now")
        .dir("a")
        .symlink("c", "a")
        .file("c/through", b"a link")
        .file("kept", &b"content ".repeat(100))
        .bytes();
    let site = Site::new().await;
    let registry = Fake::serving(image("x", &[(layer, Pack::Gzip)]), |_| None).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    let found = site.images.verify(false).await.unwrap();
    assert_eq!(found.faults, []);
    spoil(&site.top_layer(&reference).join("kept"));
    let found = site.images.verify(false).await.unwrap();
    assert_eq!(
        found.faults[0].differences,
        ["/kept: its content has changed"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_fetches_what_is_broken_and_nothing_else() {
    let pulled = Pulled::new().await;
    let before = pulled.site.images.resolve(&pulled.reference).unwrap();
    let hold = pulled.site.images.hold(&before).unwrap();
    spoil(&pulled.top().join("d/file"));
    let found = pulled.verify(true).await;
    assert_eq!(found.repairs.len(), 1);
    assert_eq!(
        (&found.repairs[0].image, &found.repairs[0].error),
        (&pulled.reference, &None)
    );
    assert!(pulled.verify(false).await.faults.is_empty());
    let after = pulled.site.images.resolve(&pulled.reference).unwrap();
    assert_eq!(
        (&after.id, &after.repo_tags, &after.repo_digests),
        (&before.id, &before.repo_tags, &before.repo_digests)
    );
    assert_eq!(after.layers[0], before.layers[0]);
    assert_ne!(after.layers[1], before.layers[1]);
    let blobs = two_layers().layers;
    let fetched: Vec<_> = blobs
        .iter()
        .map(|blob| pulled.registry.count(blob))
        .collect();
    assert_eq!(fetched, [1, 2]);
    // A container goes on with what it has.
    assert!(hold.lower_dirs()[0].join("d/file").exists());
    drop(hold);
    pulled.site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_repaired_goes_alone() {
    let pulled = Pulled::new().await;
    let other = Fake::serving(image("other", &[(file("base"), Pack::Zstd)]), |_| None).await;
    let other_reference = other.reference();
    pulled
        .site
        .images
        .pull(&other_reference, None)
        .await
        .unwrap();
    spoil(&pulled.top().join("d/file"));
    drop(pulled.registry);
    let found = pulled.site.images.verify(true).await.unwrap();
    let error = found.repairs[0].error.as_deref().unwrap();
    assert!(
        error.contains(&pulled.reference[..pulled.reference.len() - 3]),
        "{error}"
    );
    assert!(pulled.site.images.resolve(&pulled.reference).is_none());
    assert!(pulled.site.images.resolve(&other_reference).is_some());
    pulled.site.assert_clean();
}

/// As if the machine had gone down: the boot id is another, and nobody has said goodbye.
async fn reboot(pulled: Pulled, in_order: bool) -> Pulled {
    let Pulled {
        site,
        registry,
        reference,
    } = pulled;
    if in_order {
        site.images.close().await.unwrap();
    }
    let root = site.root();
    let site = site
        .reopen_after(|| fs::write(root.join("content/boot"), "another boot").unwrap())
        .await;
    site.images.collect_garbage().await;
    Pulled {
        site,
        registry,
        reference,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_layers_are_mended_after_an_unclean_boot() {
    let pulled = Pulled::new().await;
    let broken = pulled.top();
    spoil(&broken.join("d/file"));
    let pulled = reboot(pulled, false).await;
    eventually(|| match pulled.top() == broken {
        true => Err("the broken layer is still in use".to_owned()),
        false => Ok(()),
    });
    assert!(pulled.verify(false).await.faults.is_empty());
    pulled.site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_needs_no_check() {
    let pulled = Pulled::new().await;
    let broken = pulled.top();
    spoil(&broken.join("d/file"));
    let pulled = reboot(pulled, true).await;
    // Enough for a check that should not happen.
    assert_eq!(pulled.verify(false).await.faults.len(), 1);
    assert_eq!(pulled.top(), broken);
    // The mark is used up.
    assert!(!pulled.site.root().join("clean").exists());
}
