//! Archives and manifests made to harm, one line each: what is refused, with which words, and what is contained. Those that
//! need more than a line are in `hostile` and `bad`.

use std::fs;

use serde_json::{Value, json};
use tar::EntryType;

use crate::fake::{Fake, Reply};
use crate::image::{INDEX_TYPE, MANIFEST_TYPE, digest, file, image, image_with, simple};
use crate::site::Site;
use crate::tree::{Pack, Tar};

/// What an archive does, the archive, and the words of its refusal if it is not taken in.
struct Case(&'static str, Tar, Option<&'static str>);

/// linux/magic.h
const EXT4_SUPER_MAGIC: i64 = 0xEF53;
const FILE: EntryType = EntryType::Regular;

fn refused(name: &'static str, words: &'static str, layer: Tar) -> Case {
    Case(name, layer, Some(words))
}

fn contained(name: &'static str, layer: Tar) -> Case {
    Case(name, layer, None)
}

fn pax(key: &str, value: &[u8]) -> Tar {
    Tar::new().pax(&[(key, value)])
}

fn setuid(name: &str) -> Tar {
    Tar::new().entry(name, FILE, b"#!", |header| header.set_mode(0o6777))
}

fn names() -> Vec<Case> {
    let long = "n".repeat(256);
    let deep = "d/".repeat(2049);
    vec![
        refused("a name up", "`..`", Tar::new().file("../x", b"")),
        refused(
            "a name up from below",
            "`..`",
            Tar::new().file("a/../../x", b""),
        ),
        refused(
            "a name with a NUL",
            "NUL",
            pax("path", b"a\0b").file("x", b""),
        ),
        contained("a name with a newline", pax("path", b"a\nb").file("x", b"")),
        contained(
            "a name that is no UTF-8",
            pax("path", b"\xff\xfe").file("x", b""),
        ),
        refused(
            "a part longer than 255",
            "File name too long",
            pax("path", long.as_bytes()).file("x", b""),
        ),
        refused(
            "a path longer than 4095",
            "4095",
            pax("path", deep.as_bytes()).dir("x"),
        ),
        refused(
            "an empty name",
            "must be a directory",
            Tar::new().file("", b""),
        ),
    ]
}

fn links() -> Vec<Case> {
    vec![
        refused(
            "the root as a link",
            "must be a directory",
            Tar::new().symlink("./", "/etc"),
        ),
        refused(
            "a link in the way",
            "no directory",
            Tar::new().symlink("l", "/tmp").file("l/x", b""),
        ),
        contained(
            "a link in the way, by two steps",
            Tar::new()
                .symlink("a", "/")
                .symlink("a/b", "/")
                .file("a/b/c/x", b""),
        ),
        refused(
            "a link to itself in the way",
            "no directory",
            Tar::new().symlink("l", "l").file("l/x", b""),
        ),
        refused(
            "a magic link in the way",
            "no directory",
            Tar::new().symlink("l", "/proc/self/root").file("l/x", b""),
        ),
        refused(
            "a hard link up",
            "out of the layer",
            Tar::new().hardlink("l", "../x"),
        ),
        refused(
            "a hard link to nothing",
            "not in this layer",
            Tar::new().hardlink("l", "x"),
        ),
        refused(
            "a hard link through a link",
            "not in this layer",
            Tar::new().symlink("d", "/etc").hardlink("l", "d/passwd"),
        ),
        refused(
            "a hard link to a directory",
            "link",
            Tar::new().dir("d").hardlink("l", "d"),
        ),
        refused(
            "a link without a target",
            "target",
            Tar::new().entry("l", EntryType::Symlink, b"", |_| {}),
        ),
        refused(
            "a link's target longer than a page",
            "File name too long",
            pax("linkpath", &vec![b'x'; 5000]).symlink("l", "x"),
        ),
    ]
}

fn nodes() -> Vec<Case> {
    vec![
        contained("setuid and setgid", setuid("s")),
        contained(
            "a device of the host's disk",
            Tar::new().device("d", EntryType::Block, 8, 0),
        ),
        contained(
            "a whiteout as a device",
            Tar::new().device("d", EntryType::Char, 0, 0),
        ),
        refused(
            "a device with numbers beyond all",
            "device",
            Tar::new().device("d", EntryType::Char, 0o777_7777, 0o777_7777),
        ),
        contained(
            "a file over a device",
            Tar::new()
                .device("d", EntryType::Char, 1, 1)
                .file("d", b"x"),
        ),
        refused(
            "a file in a device",
            "no directory",
            Tar::new()
                .device("d", EntryType::Char, 1, 1)
                .file("d/x", b""),
        ),
        contained(
            "a fifo that nobody writes to",
            Tar::new()
                .device("p", EntryType::Fifo, 0, 0)
                .file("p", b"x"),
        ),
        refused(
            "a whiteout of nothing",
            "whiteout of no file",
            Tar::new().file(".wh.", b""),
        ),
        refused(
            "a whiteout of the directory above",
            "whiteout of no file",
            Tar::new().file("a/.wh...", b""),
        ),
        refused(
            "opaque through a link",
            "no directory",
            Tar::new().symlink("l", "/etc").file("l/.wh..wh..opq", b""),
        ),
    ]
}

fn attributes() -> Vec<Case> {
    let xattr = vec![b'x'; 70_000];
    vec![
        refused(
            "overlay's own attribute",
            "overlayfs",
            pax("SCHILY.xattr.trusted.overlay.redirect", b"/").dir("d"),
        ),
        refused(
            "overlay's own attribute, for users",
            "overlayfs",
            pax("SCHILY.xattr.user.overlay.origin", b"x").dir("d"),
        ),
        contained(
            "an attribute of the host",
            pax("SCHILY.xattr.security.selinux", b"x").file("f", b""),
        ),
        refused(
            "an attribute larger than any",
            "Argument list too long",
            pax("SCHILY.xattr.user.x", &xattr).file("f", b""),
        ),
    ]
}

fn headers() -> Vec<Case> {
    let many = "a".repeat(1 << 20);
    vec![
        refused(
            "PAX records larger than a MiB",
            "larger than 1 MiB",
            pax("comment", many.as_bytes()).file("f", b""),
        ),
        refused(
            "a PAX record longer than its header",
            "PAX header",
            Tar::new()
                .entry("p", EntryType::XHeader, b"99 a=b\n", |_| {})
                .file("f", b""),
        ),
        refused(
            "a PAX size beyond the end",
            "middle of an entry",
            pax("size", b"999999").file("f", b"x"),
        ),
        refused(
            "a PAX size below the file's",
            "checksum",
            pax("size", b"0").file("f", &[b'x'; 600]),
        ),
        refused(
            "a size that is no number",
            "number",
            Tar::new().entry("f", FILE, b"", |header| {
                header.as_old_mut().size = *b"zzzzzzzzzzz\0"
            }),
        ),
        refused(
            "a size below zero",
            "number",
            Tar::new().entry("f", FILE, b"", |header| {
                header.as_old_mut().size = [0xff; 12]
            }),
        ),
        refused(
            "an owner beyond all",
            "valid id",
            pax("uid", b"4294967295").file("f", b""),
        ),
        refused(
            "a time beyond all",
            "PAX header",
            pax("mtime", b"99999999999999999999").file("f", b""),
        ),
        refused(
            "a sparse map that overlaps",
            "sparse",
            pax("GNU.sparse.map", b"0,3,1,2")
                .pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,3,1,2")])
                .file("f", b"01234"),
        ),
        refused(
            "a sparse map beyond the end",
            "sparse",
            Tar::new()
                .pax(&[("GNU.sparse.size", b"4"), ("GNU.sparse.map", b"0,3,9,2")])
                .file("f", b"01234"),
        ),
        refused(
            "a sparse file of an exabyte",
            "truncate",
            Tar::new()
                .pax(&[
                    ("GNU.sparse.size", b"9000000000000000000"),
                    ("GNU.sparse.map", b"0,1"),
                ])
                .file("f", b"0"),
        ),
        refused(
            "an entry of no known type",
            "unknown",
            Tar::new().entry("f", EntryType::new(b'Z'), b"", |_| {}),
        ),
    ]
}

fn trees() -> Vec<Case> {
    vec![
        contained(
            "a whiteout in a directory that a file replaced",
            Tar::new().file("d", b"new").file("d/.wh.x", b""),
        ),
        contained(
            "a whiteout in a directory that a link replaced",
            Tar::new()
                .symlink("d", "/nowhere")
                .file("d/.wh.x", b"")
                .symlink("l", "l")
                .file("l/.wh.x", b""),
        ),
        contained(
            "a whiteout in a directory that a file will replace",
            Tar::new().file("d/.wh.x", b"").file("d", b"new"),
        ),
        contained(
            "one name in every type",
            Tar::new()
                .file("x", b"")
                .dir("x")
                .symlink("x", "/")
                .device("x", EntryType::Fifo, 0, 0)
                .file("x", b"end"),
        ),
        contained(
            "a directory that goes while it is used",
            Tar::new()
                .file("a/b/c", b"")
                .symlink("a", "/")
                .file("a/x", b""),
        ),
    ]
}

struct Place {
    site: Site,
}

impl Place {
    async fn new() -> Self {
        Self::new_in(Site::new().await)
    }

    fn new_in(site: Site) -> Self {
        fs::create_dir(site.path("outside")).unwrap();
        Self { site }
    }

    /// Pulls it; nothing is outside, nothing is left, and what came in is what its archive says.
    async fn check(
        &self,
        name: &str,
        layer: Vec<u8>,
        pack: Pack,
        refused: Option<&str>,
    ) -> Result<(), String> {
        let registry = Fake::serving(image(name, &[(layer, pack)]), |_| None).await;
        let reference = format!("{}/app:v1", registry.address);
        let pulled = self.site.images.pull(&reference, None).await;
        let outside = fs::read_dir(self.site.path("outside")).unwrap();
        assert_eq!(outside.count(), 0, "{name} wrote outside");
        self.site.assert_clean();
        match (pulled, refused) {
            (Ok(image), None) => {
                self.site.assert_verified().await;
                self.site.images.remove(&image.id).await.unwrap();
                Ok(())
            }
            (Err(error), Some(words)) if error.to_string().contains(words) => Ok(()),
            (Ok(_), Some(_)) => Err(format!("{name} is taken in")),
            (Err(error), _) => Err(format!("{name}: {error}")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_archive_has_its_fate() {
    let place = Place::new().await;
    let cases = [names(), links(), nodes(), attributes(), headers(), trees()]
        .into_iter()
        .flatten();
    let mut wrong = Vec::new();
    for Case(name, layer, refused) in cases {
        wrong.extend(
            place
                .check(name, layer.bytes(), Pack::Gzip, refused)
                .await
                .err(),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// In memory, where inodes are cheap.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_entries() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = Place::new_in(Site::new_in(dir).await);
    let mut layer = Tar::new().dir("d");
    for number in 0..1_000_000 {
        layer = layer.symlink(&format!("d/{number}"), "x");
    }
    place
        .check("a million links", layer.bytes(), Pack::Zstd, None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_names_for_a_file_than_it_can_have() {
    let mut layer = Tar::new().file("0", b"x");
    for number in 1..70_000 {
        layer = layer.hardlink(&number.to_string(), "0");
    }
    // The limits of ext4, XFS and btrfs differ, and tmpfs has none.
    let site = Site::new().await;
    let kind = rustix::fs::statfs(site.root()).unwrap().f_type;
    let refused = (kind == EXT4_SUPER_MAGIC).then_some("Too many links");
    let place = Place::new_in(site);
    place
        .check("names", layer.bytes(), Pack::Zstd, refused)
        .await
        .unwrap();
}

/// A lower layer's link does not lead an upper layer's entries anywhere: each is unpacked alone.
#[tokio::test(flavor = "multi_thread")]
async fn links_between_layers_lead_nowhere() {
    let place = Place::new().await;
    let outside = place.site.path("outside");
    let below = Tar::new().symlink("d", outside.to_str().unwrap()).bytes();
    let above = Tar::new().file("d/x", b"mine").bytes();
    let layers = [(below, Pack::Gzip), (above, Pack::Gzip)];
    let registry = Fake::serving(image("layers", &layers), |_| None).await;
    let reference = format!("{}/app:v1", registry.address);
    place.site.images.pull(&reference, None).await.unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let top = place.site.top_layer(&reference);
    assert_eq!(fs::read(top.join("d/x")).unwrap(), b"mine");
}

/// Manifests and indexes: each edit of a good one is refused with its words.
#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_has_its_fate() {
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit, &str); 12] = [
        (
            "no layers",
            |m| drop(m.as_object_mut().unwrap().remove("layers")),
            "layers",
        ),
        (
            "layers that are no list",
            |m| m["layers"] = json!("x"),
            "invalid type",
        ),
        (
            "a layer too many",
            |m| {
                let layer = m["layers"][0].clone();
                m["layers"].as_array_mut().unwrap().push(layer);
            },
            "lists 2 layers, the config 1",
        ),
        (
            "a layer too few",
            |m| m["layers"] = json!([]),
            "lists 0 layers, the config 1",
        ),
        (
            "five hundred layers",
            |m| {
                let layer = m["layers"][0].clone();
                m["layers"] = vec![layer; 500].into();
            },
            "499",
        ),
        (
            "a digest of another kind",
            |m| m["layers"][0]["digest"] = json!("md5:00"),
            "digest",
        ),
        (
            "a digest as a path",
            |m| m["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd"),
            "etc/passwd",
        ),
        (
            "a size below zero",
            |m| m["layers"][0]["size"] = json!(-1),
            "invalid value",
        ),
        (
            "a size of exabytes",
            |m| m["layers"][0]["size"] = json!(u64::MAX),
            "size",
        ),
        (
            "a config of gigabytes",
            |m| m["config"]["size"] = json!(1u64 << 40),
            "limit",
        ),
        (
            "both a manifest and an index",
            |m| m["manifests"] = json!([]),
            "as a manifest and as an index",
        ),
        (
            "an artifact",
            |m| m["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json"),
            "artifact",
        ),
    ];
    let site = Site::new().await;
    for (name, edit, words) in cases {
        let hostile = image_with(name, &[(file("x"), Pack::Gzip)], edit);
        let registry = Fake::serving(hostile, |_| None).await;
        let reference = format!("{}/app:v1", registry.address);
        let error = site.images.pull(&reference, None).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words), "{name}: {text}");
        site.assert_clean();
    }
}

/// An index that lists itself cannot be made, since it would have to know its digest; one that is served for every digest
/// can, and so can a chain of them.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_without_an_end() {
    let site = Site::new().await;
    let mut documents = Vec::new();
    let mut below = simple("end").digest;
    for _ in 0..40 {
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX_TYPE,
            "manifests": [{"mediaType": INDEX_TYPE, "digest": below, "size": 300}],
        });
        let index = index.to_string().into_bytes();
        below = digest(&index);
        documents.push(index);
    }
    let top = documents.last().unwrap().clone();
    let registry = Fake::start(move |asked| {
        let found = documents
            .iter()
            .find(|bytes| asked.path.contains(&digest(bytes)));
        Reply::new(200, found.unwrap_or(&top)).with("Content-Type", MANIFEST_TYPE)
    })
    .await;
    let reference = format!("{}/app:v1", registry.address);
    let error = site.images.pull(&reference, None).await.unwrap_err();
    assert!(error.to_string().contains("nest too deep"), "{error}");
    site.assert_clean();
}
