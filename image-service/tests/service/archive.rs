//! Layers as GNU tar packs a real tree, compared with that tree entry by entry; and whiteouts.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use corten_image::ErrorKind;
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

use crate::fake::Fake;
use crate::image::image;
use crate::registry::run;
use crate::site::Site;
use crate::tree::{Pack, Tar};

/// Unpacks one layer; the directory lives as long as the site.
async fn unpack(site: &Site, tar: Vec<u8>, pack: Pack) -> PathBuf {
    let registry = Fake::serving(image("tree", &[(tar, pack)]), |_| None).await;
    let reference = registry.reference();
    let pulled = site.images.pull(&reference, None).await.unwrap();
    site.assert_clean();
    site.top_layer(&pulled.id)
}

/// One line per entry: everything a container could see.
fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let mut line = format!(
            "{:o} {}:{} {}.{} links={} rdev={}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            if meta.is_dir() { 0 } else { meta.nlink() },
            meta.rdev(),
        );
        if meta.is_dir() {
            open.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if meta.is_symlink() {
            line += &format!(" -> {}", fs::read_link(&path).unwrap().display());
        } else if meta.is_file() {
            line += &format!(
                " {} {}",
                meta.len(),
                crate::image::digest(&fs::read(&path).unwrap())
            );
        }
        for (key, value) in xattrs(&path) {
            line += &format!(" {key}={value:?}");
        }
        lines.insert(name, line);
    }
    lines
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let name = CString::new(name).unwrap();
        let length = rustix::fs::lgetxattr(path, &name, &mut value[..]).unwrap();
        value.truncate(length);
        (name.into_string().unwrap(), value)
    };
    names.map(value).collect()
}

fn set_mtime(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec { tv_sec, tv_nsec },
    };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A bit of everything. `rich` adds what only PAX archives carry.
fn plant(root: &Path, rich: bool) {
    let long = "n".repeat(200);
    fs::create_dir_all(root.join("deep/er").join(&long)).unwrap();
    fs::write(root.join("deep/er").join(&long).join(&long), "long").unwrap();
    symlink(format!("/{}", "t/".repeat(120)), root.join("long-link")).unwrap();
    fs::write(root.join("setuid"), "s").unwrap();
    std::os::unix::fs::chown(root.join("setuid"), Some(1000), Some(70_000)).unwrap();
    fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o6755)).unwrap();
    std::os::unix::fs::lchown(root.join("long-link"), Some(100_000), Some(5)).unwrap();
    fs::hard_link(root.join("setuid"), root.join("deep/second-name")).unwrap();
    let node = |name: &str, kind, major, minor| {
        let mode = Mode::from_raw_mode(0o620);
        rustix::fs::mknodat(
            CWD,
            root.join(name),
            kind,
            mode,
            rustix::fs::makedev(major, minor),
        )
        .unwrap();
    };
    node("null", FileType::CharacterDevice, 1, 3);
    node("block", FileType::BlockDevice, 259, 300);
    node("fifo", FileType::Fifo, 0, 0);
    fs::create_dir(root.join("shut")).unwrap();
    fs::write(root.join("shut/in"), "x").unwrap();
    fs::set_permissions(root.join("shut"), fs::Permissions::from_mode(0o1300)).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    for fragment in 0..40 {
        sparse
            .write_all_at(b"data", fragment * (100 << 10))
            .unwrap();
    }
    sparse.set_len(5 << 20).unwrap();
    if rich {
        rustix::fs::lsetxattr(
            root.join("setuid"),
            "user.note",
            b"a\nb\0c",
            XattrFlags::empty(),
        )
        .unwrap();
        // cap_net_raw+ep, revision 2. Rule: capability.h, struct vfs_cap_data.
        let capability = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let name = "security.capability";
        rustix::fs::lsetxattr(root.join("shut/in"), name, &capability, XattrFlags::empty())
            .unwrap();
        set_mtime(&root.join("setuid"), -5, 250_000_000);
        set_mtime(&root.join("null"), 1 << 33, 1);
    } else {
        for name in ["setuid", "null"] {
            set_mtime(&root.join(name), 77, 0);
        }
    }
    for name in ["shut/in", "long-link", "block", "fifo", "sparse"] {
        set_mtime(&root.join(name), 1_500_000_000, 0);
    }
    set_mtime(&root.join("deep/er").join(&long).join(&long), 1, 0);
    let nested = format!("deep/er/{long}");
    for name in ["shut", &nested, "deep/er", "deep", ""] {
        set_mtime(&root.join(name), 1_400_000_000, 0);
    }
}

async fn round_trip(options: &[&str], rich: bool) {
    let site = Site::new().await;
    let source = site.path("source");
    fs::create_dir(&source).unwrap();
    plant(&source, rich);
    let archive = site.path("layer.tar");
    run(Command::new("tar")
        .args(options)
        .args(["--numeric-owner", "--sort=name", "-C"])
        .args([&source, Path::new("-cf"), &archive, Path::new(".")]));
    let top = unpack(&site, fs::read(&archive).unwrap(), Pack::Zstd).await;
    let (want, got) = (describe(&source), describe(&top));
    for (name, line) in &want {
        assert_eq!(got.get(name), Some(line), "{name}");
    }
    assert_eq!(want.len(), got.len());
    if options.contains(&"--sparse") {
        let blocks = fs::metadata(top.join("sparse")).unwrap().blocks();
        assert!(blocks < 40 * 2 * 8, "{blocks} blocks");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gnu_archives() {
    round_trip(&["--format=gnu", "--sparse"], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pax_archives() {
    let pax = ["--format=pax", "--xattrs", "--xattrs-include=*"];
    round_trip(&pax, true).await;
    for version in ["0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={version}");
        round_trip(&[&pax[..], &["--sparse", &version]].concat(), true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_become_overlays_own() {
    let site = Site::new().await;
    let layer = Tar::new()
        .dir("kept")
        .file("kept/.wh.gone", b"")
        .dir("fresh")
        .file("fresh/.wh..wh..opq", b"")
        .file("fresh/new", b"x")
        .file("implied/.wh..wh..opq", b"")
        .file(".wh..wh.plnk", b"")
        // Removed and made again: nothing from below may shine through.
        .file(".wh.again", b"")
        .file("again/new", b"x")
        .dir("before")
        .file(".wh.before", b"")
        .file("file", b"mine")
        .file(".wh.file", b"");
    let top = unpack(&site, layer.bytes(), Pack::Gzip).await;
    let gone = fs::symlink_metadata(top.join("kept/gone")).unwrap();
    assert_eq!((gone.mode() & 0o170_000, gone.rdev()), (0o020_000, 0));
    for name in ["fresh", "implied", "again", "before"] {
        let marks = xattrs(&top.join(name));
        assert_eq!(
            marks.get("trusted.overlay.opaque").map(Vec::as_slice),
            Some(&b"y"[..]),
            "{name}"
        );
    }
    assert!(!xattrs(&top.join("kept")).contains_key("trusted.overlay.opaque"));
    assert_eq!(fs::read(top.join("file")).unwrap(), b"mine");
    assert!(!top.join(".wh..wh.plnk").exists() && !top.join("plnk").exists());
    let mode = fs::metadata(top.join("implied")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_in_many_gzip_members_and_without_an_end_mark() {
    let site = Site::new().await;
    let tar = Tar::new().file("a", b"1").file("b", b"2").bytes();
    let (head, tail) = tar[..tar.len() - 1024].split_at(700);
    let plain = [head, tail].concat();
    let packed = [
        crate::tree::pack(head, Pack::Gzip),
        crate::tree::pack(tail, Pack::Gzip),
    ]
    .concat();
    let mut wanted = image("members", &[(plain, Pack::Gzip)]);
    let old = wanted.layers[0].clone();
    let size = wanted.blobs[&old].len();
    let manifest = String::from_utf8(wanted.blobs[&wanted.digest].clone()).unwrap();
    let manifest = manifest
        .replace(&old, &crate::image::digest(&packed))
        .replace(
            &format!("\"size\":{size}"),
            &format!("\"size\":{}", packed.len()),
        );
    wanted.digest = crate::image::digest(manifest.as_bytes());
    for bytes in [packed, manifest.into_bytes()] {
        wanted.blobs.insert(crate::image::digest(&bytes), bytes);
    }
    let registry = Fake::serving(wanted, |_| None).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    assert_eq!(
        fs::read(site.top_layer(&reference).join("b")).unwrap(),
        b"2"
    );
    site.assert_clean();
}

/// umoci's `insert` writes none.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_file_needs_no_padding() {
    let tar = Tar::new().file("a", b"1").bytes()[..513].to_vec();
    let site = Site::new().await;
    let registry = Fake::serving(image("cut", &[(tar, Pack::Gzip)]), |_| None).await;
    let reference = registry.reference();
    site.images.pull(&reference, None).await.unwrap();
    let top = site.top_layer(&reference);
    assert_eq!(fs::read(top.join("a")).unwrap(), b"1");
    site.assert_verified().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_tar_writes_is_refused() {
    let zero = |at: usize| {
        let mut tar = Tar::new().file("a", b"1").bytes();
        tar.splice(at..at, [0; 512]);
        tar
    };
    for (tar, part) in [
        (b"not a tar archive at all".repeat(100), "no tar archive"),
        (zero(0), "after the end mark"),
        (
            Tar::new().file("a", &[b'1'; 100]).bytes()[..600].to_vec(),
            "ends in the middle",
        ),
        (vec![1], "ends in the middle"),
    ] {
        let site = Site::new().await;
        let registry = Fake::serving(image("bad", &[(tar, Pack::Plain)]), |_| None).await;
        let reference = registry.reference();
        let error = site.images.pull(&reference, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidContent);
        assert!(error.to_string().contains(part), "{error}");
        site.assert_clean();
    }
}
