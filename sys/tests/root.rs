//! Paths below a root: what is made of them, where symlinks lead, and what others do to them meanwhile.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::Result,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use corten_sys::{open, root::Root};
use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, fstat, renameat_with};

const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
const FILE: Mode = Mode::from_raw_mode(0o644);

/// A directory with `root` and `outside` in it, removed at the end.
struct Site {
    dir: PathBuf,
    root: Root,
}

impl Site {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("corten-sys-root-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        for name in ["root", "outside"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let root = Root::open(&dir.join("root")).unwrap();
        Self { dir, root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join("root").join(name)
    }

    fn link(&self, name: &str, target: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        symlink(target, self.path(name)).unwrap();
    }

    fn make_dir(&self, path: &str) -> Result<()> {
        self.root.make_dir_all(Path::new(path), DIRECTORY).map(drop)
    }

    fn make_file(&self, path: &str) -> Result<()> {
        self.root.make_file(Path::new(path), FILE).map(drop)
    }

    #[track_caller]
    fn nothing_is_outside(&self) {
        let found = fs::read_dir(self.dir.join("outside")).unwrap().next();
        assert!(found.is_none(), "{found:?}");
        assert_eq!(fs::read_dir(&self.dir).unwrap().count(), 2);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[track_caller]
fn refused(made: Result<()>, errno: i32) {
    assert_eq!(made.unwrap_err().raw_os_error(), Some(errno));
}

#[test]
fn files_and_directories_are_made_where_dangling_links_lead() {
    let site = Site::new();
    let links = [
        (
            "etc/resolv.conf",
            "../run/systemd/resolve/stub",
            "run/systemd/resolve/stub",
        ),
        ("etc/hosts", "/nix/hosts", "nix/hosts"),
        ("etc/first", "second", "zone/info"),
        ("etc/second", "./../third", "zone/info"),
        ("third", "//zone/./info", "zone/info"),
        ("etc/far", "../../../../../../far/away", "far/away"),
        ("etc/aside", "missing/../aside-of-it", "etc/aside-of-it"),
        ("a/dir-link", "/q/c", "q/c"),
        ("b/c/up", "../found", "b/found"),
    ];
    for (link, target, _) in links {
        site.link(link, target);
    }
    for (link, _, made) in links {
        let path = format!("/{link}");
        site.make_file(&path).unwrap();
        assert!(site.path(made).is_file(), "{link}");
        assert!(fs::symlink_metadata(site.path(link)).unwrap().is_symlink());
        // Once more, what is there is found.
        site.make_file(&path).unwrap();
        fs::remove_file(site.path(made)).unwrap();
        site.make_dir(&path).unwrap();
        assert!(site.path(made).is_dir(), "{link}");
        fs::remove_dir(site.path(made)).unwrap();
        site.make_file(&format!("{path}/deep/file")).unwrap();
        assert!(site.path(made).join("deep/file").is_file(), "{link}");
        fs::remove_dir_all(site.path(made)).unwrap();
    }
    site.nothing_is_outside();
}

#[test]
fn dot_dot_in_a_link_is_the_parent_of_where_the_link_lies() {
    let site = Site::new();
    fs::create_dir_all(site.path("usr/share/etc")).unwrap();
    site.link("etc", "usr/share/etc");
    site.link("usr/share/etc/conf", "../conf/file");
    site.make_file("/etc/conf").unwrap();
    assert!(site.path("usr/share/conf/file").is_file());
    assert!(!site.path("conf").exists());
}

#[test]
fn a_path_that_cannot_be_made_is_refused_with_its_cause() {
    let site = Site::new();
    site.link("a", "b");
    site.link("b", "a");
    site.link("grows", "x/../grows/y");
    fs::write(site.path("file"), "").unwrap();
    site.link("to-file", "file/below");
    for make in [Site::make_dir, Site::make_file] {
        refused(make(&site, "/a"), libc::ELOOP);
        refused(make(&site, "/a/x"), libc::ELOOP);
        refused(make(&site, "/grows"), libc::ELOOP);
        refused(make(&site, "/file/x"), libc::ENOTDIR);
        refused(make(&site, "/to-file"), libc::ENOTDIR);
    }
    refused(site.make_dir("/file"), libc::ENOTDIR);
    // A directory is found in place of a file.
    site.make_dir("/dir").unwrap();
    site.make_file("/dir").unwrap();
    site.link("up", "../..");
    let top = site.root.make_file(Path::new("/up"), FILE).unwrap();
    let id = |fd: &dyn Fn() -> rustix::fs::Stat| (fd().st_dev, fd().st_ino);
    assert_eq!(
        id(&|| fstat(&top).unwrap()),
        id(&|| fstat(&site.root).unwrap())
    );
}

/// Runs `act` in a mount namespace of its own.
fn apart<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let own = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            act()
        });
        own.join().unwrap()
    })
}

#[test]
fn magic_links_are_not_followed_behind_what_is_missing() {
    let mut site = Site::new();
    fs::create_dir(site.path("proc")).unwrap();
    apart(|| {
        let none: Option<&str> = None;
        mount(
            Some("proc"),
            &site.path("proc"),
            Some("proc"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        site.root = Root::open(&site.path("")).unwrap();
        site.link("magic", "missing/../proc/self/cwd/made");
        site.link("text", "gone/../proc/self/status");
        refused(site.make_dir("/magic"), libc::ELOOP);
        site.make_file("/text").unwrap();
    });
}

#[test]
fn paths_are_found_and_made_while_others_rename_and_mount() {
    let site = Site::new();
    fs::create_dir_all(site.path("run/secrets")).unwrap();
    site.link("var/run", "../run");
    site.link("var/dangling", "../run/later");
    let done = AtomicBool::new(false);
    let meanwhile = |act: &dyn Fn()| {
        while !done.load(Ordering::Relaxed) {
            act();
        }
    };
    thread::scope(|scope| {
        let (one, two) = (site.dir.join("outside/1"), site.dir.join("outside/2"));
        fs::create_dir(&one).unwrap();
        scope.spawn(move || {
            meanwhile(&|| {
                fs::rename(&one, &two).unwrap();
                fs::rename(&two, &one).unwrap();
            });
        });
        let place = site.dir.join("outside/mounted");
        fs::create_dir(&place).unwrap();
        scope.spawn(move || {
            apart(|| {
                let none: Option<&str> = None;
                meanwhile(&|| {
                    mount(none, &place, Some("tmpfs"), MsFlags::empty(), none).unwrap();
                    umount2(&place, MntFlags::MNT_DETACH).unwrap();
                });
            });
        });
        let mut failed = Vec::new();
        for number in 0..200 {
            let known = Path::new("/var/run/secrets");
            failed.extend((0..50).filter_map(|_| site.root.locate(known).err()));
            failed.extend(site.make_dir(&format!("/var/run/secrets/{number}")).err());
            failed.extend(site.make_dir("/var/dangling/made").err());
            let _ = fs::remove_dir_all(site.path("run/later"));
        }
        done.store(true, Ordering::Relaxed);
        assert!(
            failed.is_empty(),
            "{} failed: {:?}",
            failed.len(),
            failed[0]
        );
    });
}

#[test]
fn nothing_is_made_outside_while_others_move_what_is_walked() {
    let site = Site::new();
    for name in ["vol/moved", "vol/real"] {
        fs::create_dir_all(site.path(name)).unwrap();
    }
    let outside = site.dir.join("outside");
    fs::create_dir(outside.join("hole")).unwrap();
    symlink(&outside, site.path("vol/out")).unwrap();
    site.link("vol/way", "moved/missing/../../swapped/made");
    site.link("vol/up", "moved/gone/../../../../../made");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (inside, away) = (site.path("vol/moved"), outside.join("hole/moved"));
            while !done.load(Ordering::Relaxed) {
                fs::rename(&inside, &away).unwrap();
                // It may have been made anew meanwhile.
                while fs::rename(&away, &inside).is_err() {
                    let _ = fs::remove_dir_all(&inside);
                }
                let (real, out) = (site.path("vol/real"), site.path("vol/out"));
                let flags = RenameFlags::EXCHANGE;
                renameat_with(CWD, &real, CWD, &out, flags).unwrap();
                let _ = symlink("out", site.path("vol/swapped"));
                let _ = fs::remove_file(site.path("vol/swapped"));
            }
        });
        for _ in 0..1000 {
            for path in ["/vol/way", "/vol/up", "/vol/out/made", "/vol/real/made/it"] {
                // Whatever becomes of it.
                let _ = site.make_file(path);
                let _ = site.make_dir(path);
            }
            for name in ["vol/swapped", "made", "vol/moved/missing", "vol/moved/gone"] {
                let _ = fs::remove_dir_all(site.path(name));
                let _ = fs::remove_file(site.path(name));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let names = |dir: &Path| -> Vec<_> {
        let found = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        found.map(|entry| entry.file_name()).collect()
    };
    assert_eq!(names(&outside), ["hole"]);
    assert!(names(&outside.join("hole")).is_empty());
}

#[test]
fn nothing_but_a_file_is_opened() {
    let site = Site::new();
    let descriptors = open::Descriptors::of_self().unwrap();
    let read = |path: &str| {
        let place = site.root.locate(Path::new(path)).unwrap();
        descriptors
            .open_file(place.as_fd(), OFlags::RDONLY)
            .unwrap()
    };
    fs::write(site.path("file"), "text").unwrap();
    site.link("link", "file");
    for path in ["file", "link"] {
        let file = read(path).unwrap();
        assert_eq!(
            FileType::from_raw_mode(fstat(&file).unwrap().st_mode),
            FileType::RegularFile
        );
        assert_eq!(
            std::io::read_to_string(fs::File::from(file)).unwrap(),
            "text"
        );
    }
    // An open of the FIFO would be seen by its writer: without a reader the writer's open fails (fifo(7), ENXIO).
    nix::unistd::mkfifo(&site.path("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(
        fs::metadata(site.path("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert!(read("fifo").is_none());
    assert!(read("/").is_none());
    // Its open would fail: no driver has it.
    let known = fs::read_to_string("/proc/devices").unwrap();
    let unused = (300..511).find(|major| !known.contains(&format!("\n{major} ")));
    let number = nix::sys::stat::makedev(unused.unwrap(), 0);
    let (kind, mode) = (
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::S_IRUSR,
    );
    nix::sys::stat::mknod(&site.path("device"), kind, mode, number).unwrap();
    assert!(read("device").is_none());
    let refused = open::regular_file(&site.path("device")).unwrap_err();
    assert_eq!(refused.to_string(), "not a regular file");
    assert!(open::regular_file(&site.path("fifo")).is_err());
    assert!(open::regular_file(&site.path("link")).is_ok());
}
