//! After a restart: what was committed is there, what was not is gone, and nothing keeps us down.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use corten_image::ErrorKind;

use crate::fake::Fake;
use crate::image::{Image, file, image, simple};
use crate::registry::run;
use crate::site::{Site, entries};
use crate::tree::{Pack, Tar};

async fn pulled(site: &Site, image: Image) -> String {
    let registry = Fake::serving(image, |_| None).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    reference
}

#[tokio::test(flavor = "multi_thread")]
async fn images_survive_and_leftovers_do_not() {
    let site = Site::new().await;
    let reference = pulled(
        &site,
        image("x", &[(file("a"), Pack::Gzip), (file("b"), Pack::Gzip)]),
    )
    .await;
    let before = (site.images.list(), site.images.usage());
    fs::create_dir_all(site.root().join("staging/7/deep/er")).unwrap();
    fs::create_dir_all(site.root().join("trash/0/deep")).unwrap();
    fs::create_dir_all(site.root().join("layers/unrecorded")).unwrap();
    let site = site.reopen().await;
    assert_eq!((site.images.list(), site.images.usage()), before);
    assert!(site.images.resolve(&reference).is_some());
    assert!(site.images.conditions().is_empty());
    // A container may still run on it, until the daemon has said that none does.
    let hold = site.images.hold_layers(&["unrecorded".to_owned()]).unwrap();
    site.images.collect_garbage().await;
    assert!(hold.lower_dirs()[0].is_dir());
    drop(hold);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_before_the_holds_are_known() {
    let site = Site::new().await;
    let reference = pulled(&site, simple("x")).await;
    let layers = site.images.resolve(&reference).unwrap().layers.clone();
    let site = site.reopen().await;
    site.images.remove(&reference).await.unwrap();
    let hold = site.images.hold_layers(&layers).unwrap();
    site.images.collect_garbage().await;
    assert!(hold.lower_dirs()[0].is_dir());
    drop(hold);
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_layer_is_gone_is_dropped_and_pulled_again() {
    let site = Site::new().await;
    let reference = pulled(&site, simple("x")).await;
    fs::remove_dir_all(site.top_layer(&reference)).unwrap();
    let site = site.reopen().await;
    assert!(site.images.list().is_empty());
    pulled(&site, simple("x")).await;
    let site = site.reopen().await;
    assert_eq!(site.images.list().len(), 1);
    site.images.collect_garbage().await;
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_database_is_set_aside() {
    let site = Site::new().await;
    let reference = pulled(&site, simple("x")).await;
    let layer = site.images.resolve(&reference).unwrap().layers.clone();
    let database = site.root().join("images.redb");
    let site = site
        .reopen_after(|| fs::write(&database, b"garbage").unwrap())
        .await;
    assert!(site.images.list().is_empty());
    let [condition] = &site.images.conditions()[..] else {
        panic!("one condition expected");
    };
    assert!(condition.contains("quarantine"), "{condition}");
    assert_eq!(entries(&site.root().join("quarantine")).len(), 1);
    // The container on top goes on, beside a fresh copy of the same layer.
    let hold = site.images.hold_layers(&layer).unwrap();
    let reference = pulled(&site, simple("x")).await;
    assert_ne!(site.images.resolve(&reference).unwrap().layers, layer);
    site.images.collect_garbage().await;
    assert_eq!(fs::read(hold.lower_dirs()[0].join("hello")).unwrap(), b"x");
    drop(hold);
    site.assert_clean();
}

const SMALL_DISK: &str = "CORTEN_TEST_SMALL_DISK";

/// Runs itself once more, in a mount namespace with a small disk of its own.
#[test]
fn a_full_disk_is_told_and_removal_still_works() {
    if let Some(disk) = std::env::var_os(SMALL_DISK) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(on_a_small_disk(Path::new(&disk)));
    }
    let dir = tempfile::tempdir().unwrap();
    run(Command::new("unshare")
        .args(["--mount", "sh", "-ec"])
        .arg("mount -t tmpfs -o size=12m corten-image-test \"$1\"; shift; exec \"$@\"")
        .args([Path::new("sh"), dir.path()])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "recovery::a_full_disk_is_told_and_removal_still_works",
        ])
        .env(SMALL_DISK, dir.path()));
}

async fn on_a_small_disk(disk: &Path) {
    let site = Site::new_in(tempfile::tempdir_in(disk).unwrap()).await;
    let reference = pulled(&site, image("x", &[(big(1 << 20), Pack::Gzip)])).await;
    let registry = Fake::serving(image("y", &[(big(20 << 20), Pack::Gzip)]), |_| None).await;
    let large = registry.reference();
    let error = site.images.pull(&large, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("\"big\""), "{error}");
    site.assert_clean();
    let mut filler = File::create(disk.join("filler")).unwrap();
    while filler.write_all(&[1; 512]).is_ok() {}
    assert_eq!(rustix::fs::statvfs(disk).unwrap().f_bavail, 0);
    let error = site.images.pull(&large, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    site.images.remove(&reference).await.unwrap();
    site.assert_clean();
    assert!(rustix::fs::statvfs(disk).unwrap().f_bavail > 200);
}

fn big(size: usize) -> Vec<u8> {
    Tar::new().file("big", &vec![b'x'; size]).bytes()
}
