//! Layers made to escape or to exhaust: refused by name, or kept inside, and nothing is left.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use corten_image::{Error, ErrorKind};
use tar::EntryType;

use crate::fake::Fake;
use crate::image::image;
use crate::site::Site;
use crate::tree::{Pack, Tar};

/// A place on the host that hostile layers aim at, and one layer on its way.
struct Attack {
    site: Site,
    target: PathBuf,
}

impl Attack {
    async fn new() -> Self {
        let site = Site::new().await;
        let target = site.path("outside");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("victim"), "untouched").unwrap();
        Self { site, target }
    }

    fn target(&self) -> &str {
        self.target.to_str().unwrap()
    }

    async fn pull(&self, layer: Tar) -> Result<PathBuf, Error> {
        let hostile = image("hostile", &[(layer.bytes(), Pack::Gzip)]);
        let registry = Fake::serving(hostile, |_| None).await;
        let reference = registry.reference();
        let pulled = self.site.images.pull(&reference, None).await;
        assert_eq!(
            fs::read_dir(&self.target).unwrap().count(),
            1,
            "something was put outside"
        );
        let victim = self.target.join("victim");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::metadata(&victim).unwrap().nlink(), 1);
        self.site.assert_clean();
        self.site.assert_verified().await;
        pulled.map(|image| self.site.top_layer(&image.id))
    }

    async fn remove_all(&self) {
        for image in self.site.images.list() {
            self.site.images.remove(&image.id).await.unwrap();
        }
    }

    /// Pulls and expects a refusal that names the entry and has `reason` in it.
    async fn refused(&self, layer: Tar, entry: &str, reason: &str) {
        let error = self.pull(layer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidContent, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("{entry:?}")) && text.contains(reason),
            "{text}"
        );
        assert!(self.site.images.list().is_empty());
    }
}

async fn refused(layer: Tar, entry: &str, reason: &str) {
    Attack::new().await.refused(layer, entry, reason).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_upwards() {
    for name in ["../victim", "a/../../victim", "..", "/../victim", "a/.."] {
        refused(Tar::new().file(name, b"x"), name, "`..`").await;
    }
    let long = Tar::new().pax(&[("path", b"../../x")]).file("ok", b"x");
    refused(long, "../../x", "`..`").await;
    let whiteout = Tar::new().file("../.wh.victim", b"");
    refused(whiteout, "../.wh.victim", "`..`").await;
    for name in [".wh...", "a/.wh..", ".wh."] {
        refused(Tar::new().file(name, b""), name, "whiteout of no file").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_name_stays_inside() {
    let attack = Attack::new().await;
    let name = format!("{}/victim", attack.target());
    let layer = Tar::new()
        .pax(&[("path", name.as_bytes())])
        .file("x", b"mine");
    let top = attack.pull(layer).await.unwrap();
    assert_eq!(fs::read(top.join(&name[1..])).unwrap(), b"mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_through_a_link_to_the_outside() {
    let attack = Attack::new().await;
    let outside = attack.target();
    for link in [
        outside,
        &format!("../../../../../../..{outside}"),
        "/proc/1/root",
        "/proc/self/cwd",
    ] {
        // The link is all that is left of a directory of the layers below.
        let whiteout = Tar::new()
            .symlink("link", link)
            .file("link/.wh.victim", b"");
        attack.pull(whiteout).await.unwrap();
        attack.remove_all().await;
        for entry in ["link/new", "link/a/new", "link/.wh..wh..opq"] {
            let layer = Tar::new().symlink("link", link).file(entry, b"x");
            attack
                .refused(layer, entry, "no directory of this layer")
                .await;
        }
        let chain = Tar::new()
            .symlink("one", link)
            .symlink("two", "one")
            .file("two/new", b"x");
        attack
            .refused(chain, "two/new", "no directory of this layer")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_link_means_the_layers_own_root() {
    let attack = Attack::new().await;
    let layer = Tar::new()
        .dir("run")
        .symlink("var-run", "/run")
        .file("var-run/pid", b"1")
        .symlink("loop", "loop")
        .symlink("victim", &format!("{}/victim", attack.target()));
    let top = attack.pull(layer).await.unwrap();
    assert_eq!(fs::read(top.join("run/pid")).unwrap(), b"1");
    assert_eq!(
        fs::read_link(top.join("var-run")).unwrap().to_str(),
        Some("/run")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_over_a_link_replaces_the_link() {
    let attack = Attack::new().await;
    let victim = format!("{}/victim", attack.target());
    let layer = Tar::new().symlink("a", &victim).file("a", b"mine");
    let top = attack.pull(layer).await.unwrap();
    assert!(fs::symlink_metadata(top.join("a")).unwrap().is_file());
    assert_eq!(fs::read(top.join("a")).unwrap(), b"mine");
    let attack = Attack::new().await;
    let over = Tar::new()
        .symlink("d", attack.target())
        .dir("d")
        .file("d/new", b"x");
    let top = attack.pull(over).await.unwrap();
    assert_eq!(fs::read(top.join("d/new")).unwrap(), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_links_to_the_outside() {
    let attack = Attack::new().await;
    let victim = format!("{}/victim", attack.target());
    for target in [&victim, "/etc/passwd", "nothing"] {
        let layer = Tar::new().hardlink("link", target);
        attack.refused(layer, "link", "not in this layer").await;
    }
    let up = Tar::new().hardlink("link", "../../etc/passwd");
    attack.refused(up, "link", "leads out of the layer").await;
    let through = Tar::new()
        .symlink("dir", attack.target())
        .hardlink("link", "dir/victim");
    attack.refused(through, "link", "not in this layer").await;
    // A link to a symbolic link is a second name for the link, not for what it points to.
    let second = Tar::new().symlink("one", &victim).hardlink("two", "one");
    let top = attack.pull(second).await.unwrap();
    assert!(fs::symlink_metadata(top.join("two")).unwrap().is_symlink());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_directory_or_to_itself() {
    refused(Tar::new().dir("d").hardlink("e", "d"), "e", "link").await;
    let attack = Attack::new().await;
    let layer = Tar::new().file("a", b"x").hardlink("a", "./a");
    let top = attack.pull(layer).await.unwrap();
    assert_eq!(fs::read(top.join("a")).unwrap(), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_nodes_in_the_layer_and_nothing_more() {
    let attack = Attack::new().await;
    let layer = Tar::new()
        .device("dev/null", EntryType::Char, 1, 3)
        .device("dev/loop0", EntryType::Block, 7, 0)
        .device("dev/pipe", EntryType::Fifo, 0, 0);
    let dev = attack.pull(layer).await.unwrap().join("dev");
    let node = |name: &str| fs::symlink_metadata(dev.join(name)).unwrap();
    assert!(node("null").file_type().is_char_device());
    assert_eq!(node("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(node("loop0").file_type().is_block_device());
    assert!(node("pipe").file_type().is_fifo());
    // Writing "through" a device makes a file in its place.
    let layer = Tar::new()
        .device("disk", EntryType::Block, 7, 0)
        .file("disk", b"mine");
    let top = attack.pull(layer).await.unwrap();
    assert!(fs::symlink_metadata(top.join("disk")).unwrap().is_file());
    // No way leads through one.
    let layer = Tar::new()
        .device("d", EntryType::Char, 1, 3)
        .file("d/x", b"");
    attack.refused_after_images(layer, "d/x").await;
}

impl Attack {
    async fn refused_after_images(&self, layer: Tar, entry: &str) {
        let error = self.pull(layer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidContent, "{error}");
        assert!(error.to_string().contains(&format!("{entry:?}")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_speak_for_overlay() {
    for key in [
        "trusted.overlay.redirect",
        "trusted.overlay.opaque",
        "user.overlay.metacopy",
    ] {
        let key = format!("SCHILY.xattr.{key}");
        let layer = Tar::new().pax(&[(&key, b"y")]).dir("d");
        refused(layer, "d", "belongs to overlayfs").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_is_a_directory() {
    refused(
        Tar::new().file("./", b"").symlink("/", "/etc"),
        "/",
        "must be a directory",
    )
    .await;
    refused(Tar::new().file("", b"x"), "", "must be a directory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_out_of_range() {
    let uid = Tar::new().pax(&[("uid", b"4294967295")]).file("f", b"");
    refused(uid, "f", "no valid id").await;
    let kind = Tar::new().entry("f", EntryType::new(b'Z'), b"", |_| {});
    refused(kind, "f", "unknown").await;
    let no_target = Tar::new().entry("f", EntryType::Symlink, b"", |_| {});
    refused(no_target, "f", "target").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_are_broken() {
    let huge = [
        0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    let sized = |size: [u8; 12], kind| {
        Tar::new().entry("f", kind, b"", move |header| {
            header.as_old_mut().size = size;
        })
    };
    for (layer, part) in [
        (sized(huge, EntryType::Regular), "ends in the middle"),
        (
            Tar::new()
                .pax(&[("size", b"18446744073709551615")])
                .file("f", b""),
            "a number in a header",
        ),
        (sized(huge, EntryType::XHeader), "larger than 1 MiB"),
        (sized(huge, EntryType::GNULongName), "larger than 1 MiB"),
        (
            sized(*b"zzzzzzzzzzz\0", EntryType::Regular),
            "a number in a header",
        ),
        (
            Tar::new()
                .entry("p", EntryType::XHeader, b"99 a=b\n", |_| {})
                .file("f", b""),
            "PAX header is broken",
        ),
    ] {
        let attack = Attack::new().await;
        let error = attack.pull(layer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidContent, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_deeper_than_any_path() {
    // Each link leads 1,000 directories down, where the next thousand begin.
    let attack = Attack::new().await;
    let down = "d/".repeat(1000);
    let mut layer = Tar::new()
        .pax(&[("path", format!("{down}x").as_bytes())])
        .file("x", b"");
    for level in 1..8 {
        let (link, from) = (format!("l{level}"), level - 1);
        let target = match from {
            0 => down.clone(),
            from => format!("l{from}/{down}"),
        };
        layer = layer
            .pax(&[("linkpath", target.as_bytes())])
            .symlink(&link, "x")
            .pax(&[("path", format!("{link}/{down}x").as_bytes())])
            .file("x", b"");
    }
    let last = format!("{down}x");
    let top = attack.pull(layer).await.unwrap();
    assert!(fs::symlink_metadata(top.join(last)).unwrap().is_file());
    let id = attack.site.images.list()[0].id.clone();
    attack.site.images.remove(&id).await.unwrap();
    attack.site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_replaced_while_it_is_in_use() {
    let attack = Attack::new().await;
    let layer = Tar::new()
        .dir("a")
        .file("a/one", b"1")
        .symlink("a", attack.target())
        .file("b", b"2");
    let top = attack.pull(layer).await.unwrap();
    assert!(fs::symlink_metadata(top.join("a")).unwrap().is_symlink());
    let layer = Tar::new()
        .dir("a")
        .file("a/one", b"1")
        .symlink("a", attack.target())
        .file("a/two", b"2");
    attack.refused_after_images(layer, "a/two").await;
}
