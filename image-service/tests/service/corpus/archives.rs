//! One layer a line: what it does, and the words of its refusal if it is not taken in.

use tar::EntryType;

use super::Case;
use crate::tree::Tar;

const FILE: EntryType = EntryType::Regular;

pub(super) fn all() -> Vec<Case> {
    [names(), links(), nodes(), attributes(), headers(), trees()]
        .into_iter()
        .flatten()
        .collect()
}

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
            "what follows it in the archive is no header",
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
