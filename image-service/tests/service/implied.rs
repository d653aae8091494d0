//! Directories that a layer has no entry for look as in the layers below, as if all had been unpacked one over the other.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tar::EntryType;

use crate::fake::Fake;
use crate::image::{file, image};
use crate::site::Site;
use crate::tree::{Pack, Tar};

const DIRECTORY: EntryType = EntryType::Directory;
const TIME: i64 = 1_234_567_890;

/// A root, `home` and `home/sub` that nobody would take for the usual.
fn base() -> Vec<u8> {
    Tar::new()
        .entry("./", DIRECTORY, b"", |header| {
            header.set_mode(0o711);
            header.set_uid(3);
        })
        .pax(&[("SCHILY.xattr.user.colour", b"blue")])
        .entry("home", DIRECTORY, b"", |header| {
            header.set_mode(0o2750);
            header.set_uid(5);
            header.set_gid(70_000);
            header.set_mtime(TIME as u64);
        })
        .entry("home/sub", DIRECTORY, b"", |header| header.set_mode(0o1777))
        .bytes()
}

type Looks = (u32, u32, u32);

fn looks(path: &Path) -> Looks {
    let found = fs::metadata(path).unwrap();
    (found.mode() & 0o7777, found.uid(), found.gid())
}

const ROOT: Looks = (0o711, 3, 0);
const HOME: Looks = (0o2750, 5, 70_000);
const SUB: Looks = (0o1777, 0, 0);
const PLAIN: Looks = (0o755, 0, 0);

/// Pulls an image of these layers and looks at paths of the topmost.
#[track_caller]
fn check(
    layers: Vec<Vec<u8>>,
    wanted: &'static [(&'static str, Looks)],
) -> impl Future<Output = Site> {
    let layers: Vec<_> = layers
        .into_iter()
        .map(|layer| (layer, Pack::Gzip))
        .collect();
    async move {
        let site = Site::new().await;
        let registry = Fake::serving(image("x", &layers), |_| None).await;
        let reference = registry.reference();
        site.images.pull(&reference, None).await.unwrap();
        for (path, want) in wanted {
            let found = looks(&site.top_layer(&reference).join(path));
            assert_eq!(found, *want, "{path}: {:o} is not {:o}", found.0, want.0);
        }
        site.assert_verified().await;
        site
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_looks_as_in_the_layer_below() {
    let top = Tar::new().file("home/sub/new", b"").bytes();
    let site = check(
        vec![base(), top],
        &[("", ROOT), ("home", HOME), ("home/sub", SUB)],
    )
    .await;
    let top = fs::read_dir(site.root().join("layers")).unwrap();
    let homes = top.map(|layer| layer.unwrap().path().join("home"));
    let times: Vec<_> = homes
        .map(|home| fs::metadata(home).unwrap().mtime())
        .collect();
    assert_eq!(times, [TIME, TIME]);
    let colours = fs::read_dir(site.root().join("layers"))
        .unwrap()
        .map(|layer| {
            let mut value = [0; 8];
            let home = layer.unwrap().path().join("home");
            let length = rustix::fs::getxattr(home, "user.colour", &mut value[..]).unwrap();
            value[..length].to_vec()
        });
    assert_eq!(colours.collect::<Vec<_>>(), [b"blue", b"blue"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_in_between_may_have_nothing_or_imply_it_too() {
    let implies = Tar::new().file("home/sub/middle", b"").bytes();
    let top = Tar::new().file("home/sub/new", b"").bytes();
    check(
        vec![base(), file("elsewhere"), implies, top],
        &[("", ROOT), ("home", HOME), ("home/sub", SUB)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_its_own_counts_wherever_it_stands() {
    let top = Tar::new().file("home/sub/new", b"").dir("home").bytes();
    check(vec![base(), top], &[("home", PLAIN), ("home/sub", SUB)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_below_is_not_looked_at() {
    let gone = Tar::new().file(".wh.home", b"").bytes();
    let top = || Tar::new().file("home/sub/new", b"").bytes();
    check(
        vec![base(), gone, top()],
        &[("home", PLAIN), ("home/sub", PLAIN)],
    )
    .await;
    let emptied = || Tar::new().file("home/.wh..wh..opq", b"");
    check(
        vec![base(), emptied().bytes(), top()],
        &[("home", HOME), ("home/sub", PLAIN)],
    )
    .await;
    let at_once = emptied().file("home/sub/new", b"").bytes();
    check(
        vec![base(), at_once],
        &[("home", HOME), ("home/sub", PLAIN)],
    )
    .await;
    let replaced = Tar::new().file("home", b"a file").bytes();
    check(
        vec![base(), replaced, top()],
        &[("home", PLAIN), ("home/sub", PLAIN)],
    )
    .await;
    let linked = Tar::new().symlink("home", "/etc").bytes();
    check(
        vec![base(), linked, top()],
        &[("home", PLAIN), ("home/sub", PLAIN)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_here_already_counts_as_well() {
    let top = Tar::new().file("home/sub/new", b"").bytes();
    let site = Site::new().await;
    let registry = Fake::serving(image("base", &[(base(), Pack::Gzip)]), |_| None).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    let layers = [(base(), Pack::Gzip), (top, Pack::Plain)];
    let registry = Fake::serving(image("x", &layers), |_| None).await;
    let reference = registry.reference();
    let site = site.reopen().await;
    site.images.pull(&reference, None).await.unwrap();
    assert_eq!(looks(&site.top_layer(&reference).join("home")), HOME);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_below_they_have_no_time() {
    let site = Site::new().await;
    let layer = Tar::new().file("a/b/c", b"").bytes();
    let registry = Fake::serving(image("implied", &[(layer, Pack::Gzip)]), |_| None).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    let top = site.top_layer(&reference);
    for path in ["", "a", "a/b"] {
        assert_eq!(fs::metadata(top.join(path)).unwrap().mtime(), 0, "{path}");
    }
}
