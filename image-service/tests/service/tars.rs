//! Archives as old and odd tools write them: what others read is read, and what is not is refused by the entry's name.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use corten_image::{Error, ErrorKind};
use tar::EntryType;

use crate::fake::Fake;
use crate::image::image;
use crate::registry::run;
use crate::site::Site;
use crate::tree::{Pack, Tar};

async fn pull(site: &Site, tar: Vec<u8>) -> Result<PathBuf, Error> {
    let registry = Fake::serving(image("tar", &[(tar, Pack::Gzip)]), |_| None).await;
    let reference = registry.reference();
    let pulled = site.images.pull(&reference, None).await;
    site.assert_clean();
    site.assert_verified().await;
    pulled.map(|image| site.top_layer(&image.id))
}

/// Unpacks and reads `names`; `-` stands for a directory.
async fn reads(tar: Vec<u8>, want: &[(&str, &str)]) {
    let site = Site::new().await;
    let top = pull(&site, tar).await;
    let top = top.unwrap_or_else(|error| panic!("{error}"));
    for (name, content) in want {
        let path = top.join(name);
        match *content {
            "-" => assert!(path.is_dir(), "{name}"),
            content => assert_eq!(fs::read(path).unwrap(), content.as_bytes(), "{name}"),
        }
    }
}

async fn refuses(tar: Vec<u8>, entry: &str, reason: &str) {
    let site = Site::new().await;
    let error = pull(&site, tar).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidContent, "{error}");
    let text = error.to_string();
    assert!(text.contains(reason), "{text}");
    assert!(text.contains(&format!("{entry:?}")), "{text}");
    assert!(!text.contains("checksum"), "{text}");
}

fn kind(flag: u8) -> impl FnOnce(&mut tar::Header) {
    move |header| header.as_mut_bytes()[156] = flag
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_a_slash_at_its_end_may_have_data() {
    let data = "d".repeat(1000);
    let with = |flag: u8| {
        Tar::new()
            .entry("x/", EntryType::Regular, data.as_bytes(), kind(flag))
            .file("y", b"after")
            .bytes()
    };
    // For Go it is a file, unless it is from before types were written.
    reads(with(b'0'), &[("x", &data), ("y", "after")]).await;
    reads(with(0), &[("x", "-"), ("y", "after")]).await;
    let long = "n/".repeat(70);
    let tar = Tar::new()
        .pax(&[("path", long.as_bytes())])
        .entry("short", EntryType::Regular, b"", kind(0))
        .file(&format!("{}y", &long[..60]), b"after")
        .bytes();
    reads(
        tar,
        &[(&long, "-"), (&format!("{}y", &long[..60]), "after")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_of_ustar_has_a_prefix() {
    for version in [*b"00", *b"\0\0", *b"  ", *b" \0"] {
        let tar = Tar::new()
            .entry("name", EntryType::Regular, b"x", |header| {
                let bytes = header.as_mut_bytes();
                bytes[257..263].copy_from_slice(b"ustar\0");
                bytes[263..265].copy_from_slice(&version);
                bytes[345..351].copy_from_slice(b"pre/fi");
            })
            .bytes();
        reads(tar, &[("pre/fi/name", "x")]).await;
    }
    // star has times where others have more of the prefix.
    let star = Tar::new()
        .entry("name", EntryType::Regular, b"x", |header| {
            let bytes = header.as_mut_bytes();
            bytes[257..265].copy_from_slice(b"ustar\x0000");
            bytes[345..348].copy_from_slice(b"pre");
            bytes[476..500].copy_from_slice(b"13046744444 13046744444 ");
            bytes[508..512].copy_from_slice(b"tar\0");
        })
        .bytes();
    reads(star, &[("pre/name", "x")]).await;
    // Go before 1.8 wrote a prefix into headers that are GNU's.
    let go = Tar::new()
        .entry("name", EntryType::Regular, b"x", |header| {
            header.as_mut_bytes()[345..351].copy_from_slice(b"pre/fi");
        })
        .bytes();
    reads(go, &[("pre/fi/name", "x")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_read_in_every_spelling() {
    let tar = Tar::new()
        .entry("one", EntryType::Regular, b"12345", |header| {
            let fields = header.as_old_mut();
            fields.size = *b"\0         5 ";
            fields.uid = *b"\0\0\0  17 ";
            fields.mode = *b"    644 ";
            fields.mtime = [0xff; 12];
        })
        .file("two", b"after")
        .bytes();
    reads(tar, &[("one", "12345"), ("two", "after")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_named() {
    let size = |field: [u8; 12]| {
        Tar::new()
            .file("fine", b"x")
            .entry("bad", EntryType::Regular, b"", move |header| {
                header.as_old_mut().size = field;
            })
            .bytes()
    };
    refuses(size(*b"00000000089\0"), "bad", "a number in a header").await;
    refuses(size([0xff; 12]), "bad", "a number in a header").await;
    let owner = Tar::new().entry("bad", EntryType::Regular, b"", |header| {
        header.as_old_mut().uid = [0xff; 8];
    });
    refuses(owner.bytes(), "bad", "the owner is no valid id").await;
    // A link has no data, whatever its size says.
    let link =
        Tar::new()
            .file("fine", b"x")
            .entry("link", EntryType::Symlink, &[b'x'; 600], |header| {
                header.as_old_mut().linkname[0] = b'y';
            });
    refuses(link.bytes(), "link", "what follows it").await;
    let records = Tar::new()
        .entry("PaxHeaders/f", EntryType::XHeader, b"nonsense", |_| {})
        .file("f", b"x");
    refuses(records.bytes(), "PaxHeaders/f", "a PAX header is broken").await;
    let records = Tar::new().pax(&[("uid", b"-1")]).file("f", b"x");
    refuses(records.bytes(), "f", "a PAX header is broken").await;
    let sparse = Tar::new()
        .pax(&[
            ("GNU.sparse.size", b"2000"),
            ("GNU.sparse.map", b"0,3,1000"),
        ])
        .file("f", b"012");
    refuses(sparse.bytes(), "f", "map is broken").await;
    let sparse = Tar::new().entry("f", EntryType::GNUSparse, b"", |header| {
        header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000");
    });
    refuses(sparse.bytes(), "f", "map is broken").await;
    for flag in [b'V', b'M', b'D', b'N', b'A', b'I'] {
        let tar = Tar::new().entry("f", EntryType::Regular, b"", kind(flag));
        refuses(tar.bytes(), "f", "are unknown").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_tools_compress_with_is_named() {
    let site = Site::new().await;
    let bytes = |magic: &[u8]| {
        let mut bytes = magic.to_vec();
        bytes.resize(2000, 1);
        bytes
    };
    for (magic, name) in [
        (&b"BZh91AY&SY"[..], "bzip2"),
        (b"\xfd7zXZ\0\0", "xz"),
        (b"\x04\x22\x4d\x18d", "lz4"),
    ] {
        let wanted = image("x", &[(bytes(magic), Pack::Plain)]);
        let registry = Fake::serving(wanted, |_| None).await;
        let reference = registry.reference();
        let error = site.images.pull(&reference, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidContent);
        assert!(
            error.to_string().contains(&format!("compressed by {name}")),
            "{error}"
        );
    }
    site.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_before_an_entry_count_as_for_go() {
    // GNU's long name counts more than a PAX path, and ends at its first NUL.
    let both = Tar::new()
        .entry(
            "././@LongLink",
            EntryType::GNULongName,
            b"long\0er\0",
            |_| {},
        )
        .pax(&[("path", b"pax")])
        .file("short", b"x");
    reads(both.bytes(), &[("long", "x")]).await;
    let solaris = Tar::new().entry("x", EntryType::Regular, b"13 path=else\n", kind(b'X'));
    reads(solaris.file("short", b"x").bytes(), &[("else", "x")]).await;
    // Of all entries, so of none: what containerd makes of it.
    let global = Tar::new()
        .entry(
            "pax_global_header",
            EntryType::XGlobalHeader,
            b"52 comment=0123456789012345678901234567890123456789\n",
            |_| {},
        )
        .file("f", b"x");
    reads(global.bytes(), &[("f", "x")]).await;
    let name = Tar::new()
        .pax(&[("GNU.sparse.name", b"other")])
        .file("f", b"not sparse");
    reads(name.bytes(), &[("f", "not sparse")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_end_in_many_ways() {
    let whole = Tar::new().file("f", b"x").bytes();
    let entries = &whole[..whole.len() - 1024];
    reads(Vec::new(), &[]).await;
    reads(vec![0; 512], &[]).await;
    reads(vec![0; 1024], &[]).await;
    reads(entries.to_vec(), &[("f", "x")]).await;
    reads([entries, &[0; 512]].concat(), &[("f", "x")]).await;
    reads([&whole[..], &[0; 10_240 * 3]].concat(), &[("f", "x")]).await;
    reads([&whole[..], b"garbage"].concat(), &[("f", "x")]).await;
    reads([&whole[..], &whole[..]].concat(), &[("f", "x")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_of_gnu_tar_is_read() {
    let site = Site::new().await;
    let source = site.path("source");
    fs::create_dir_all(source.join("d/e")).unwrap();
    fs::write(source.join("d/e/file"), "content").unwrap();
    std::os::unix::fs::symlink("file", source.join("d/e/link")).unwrap();
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        let archive = site.path("layer.tar");
        run(Command::new("tar")
            .args(["--numeric-owner", "--sort=name", "-C"])
            .arg(&source)
            .arg(format!("--format={format}"))
            .arg("-cf")
            .args([&archive, &PathBuf::from(".")]));
        let tar = fs::read(&archive).unwrap();
        reads(tar, &[("d/e/file", "content"), ("d/e/link", "content")]).await;
    }
}
