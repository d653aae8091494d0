//! The store's disk loses power: all that it has said to be there is there, whole.
//!
//! A virtual machine pulls and removes images, with all writes of its disk recorded. What a cut at any moment leaves of
//! them is then made and looked at here. `CORTEN_POWER_CUTS` says how many cuts, `CORTEN_POWER_CUT_SEED` which, and
//! `CORTEN_POWER_CUT_DIR` where the recorded disk is kept, or found: the same cuts of it are the same again.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use corten_proto::cri;
use corten_test::{
    file_registry::FileRegistry,
    node::Node,
    tree::{self, Manifest},
    vm,
    write_log::WriteLog,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Each image by its layers, which they share.
const IMAGES: [(&str, &[u64]); 4] = [
    ("a", &[1, 2]),
    ("b", &[1, 3, 4]),
    ("c", &[1, 2, 5]),
    ("d", &[6]),
];
const STEPS: u64 = 30;
/// Bytes.
const DISK: u64 = 384 << 20;
/// Where the machine says what it does, behind the file system. Bytes.
const MARKS: u64 = DISK - (1 << 20);

/// Writes past the cache, as busybox's does not.
const DD: &str = "/usr/bin/dd";

/// Small numbers that a seed decides: xorshift64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap();
        usize::try_from(self.next() % limit).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// A tar of small files, links and directories.
fn layer(number: u64) -> Vec<u8> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ number);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_mtime(1_500_000_000);
    header.set_size(0);
    let top = format!("layer-{number}/");
    let below = (0..12).map(|directory| format!("{top}{directory}/"));
    for directory in ["./".to_owned(), top.clone()].into_iter().chain(below) {
        tar.append_data(&mut header, directory, &[][..]).unwrap();
    }
    for file in 0..160 {
        let content: Vec<u8> = (0..dice.below(30_000)).map(|_| dice.byte()).collect();
        let name = format!("{top}{}/file-{file}", dice.below(12));
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o640);
        header.set_mtime(1_600_000_000 + file);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, &name, &content[..]).unwrap();
        header.set_size(0);
        for (kind, link) in [
            (tar::EntryType::Link, "hard"),
            (tar::EntryType::Symlink, "soft"),
        ] {
            header.set_entry_type(kind);
            tar.append_link(&mut header, format!("{name}-{link}"), &name)
                .unwrap();
        }
    }
    tar.into_inner().unwrap()
}

/// Whether a step pulls, and the image; those that are there after it.
struct Step {
    pulls: bool,
    image: &'static str,
    after: BTreeSet<&'static str>,
}

fn steps(dice: &mut Dice) -> Vec<Step> {
    let mut there = BTreeSet::new();
    (0..STEPS)
        .map(|_| {
            let (image, _) = IMAGES[dice.below(IMAGES.len())];
            let pulls = there.insert(image) || !there.remove(image);
            Step {
                pulls,
                image,
                after: there.clone(),
            }
        })
        .collect()
}

/// What the machine runs, before each step and after it with a mark on the disk.
fn script(steps: &[Step]) -> String {
    let mut script = format!(
        "set -e
         mount -t ext4 /dev/vda /mnt
         httpd -p 127.0.0.1:5005 -h /share/www
         corten serve --root /mnt --state /run/state --socket /run/corten.sock --certs-dir /run/certs \
            --cni-conf-dir /run/net >/run/log 2>&1 &
         for try in $(seq 300); do [ -S /run/corten.sock ] || sleep 0.1; done
         mark() {{ printf '%-512s' \"$1\" | {DD} of=/dev/vda bs=512 seek={} conv=notrunc oflag=direct status=none; }}
         image() {{ corten image \"$@\" --socket /run/corten.sock >/dev/null || {{ cat /run/log; exit 1; }}; }}\n",
        MARKS / 512
    );
    for (number, step) in steps.iter().enumerate() {
        let command = if step.pulls { "pull" } else { "rm" };
        let reference = FileRegistry::reference(&format!(":{}", step.image));
        script +=
            &format!("mark 'begin {number}'; image {command} {reference}; mark 'end {number}'\n");
    }
    script
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}: {out}{err}");
}

fn make_disk(path: &Path) {
    File::create(path).unwrap().set_len(DISK).unwrap();
    run(Command::new("mkfs.ext4")
        .arg("-q")
        .arg(path)
        .arg(format!("{}K", MARKS >> 10)));
}

/// Where a machine has run the steps: its empty disk, and all writes to it.
struct Recording {
    dir: PathBuf,
    _temporary: Option<TempDir>,
}

impl Recording {
    fn new(www: &Path, steps: &[Step]) -> Self {
        let kept = env::var_os("CORTEN_POWER_CUT_DIR").map(PathBuf::from);
        let temporary = kept
            .is_none()
            .then(|| tempfile::tempdir_in("/dev/shm").unwrap());
        let dir = kept.unwrap_or_else(|| temporary.as_ref().unwrap().path().to_owned());
        let recording = Self {
            dir,
            _temporary: temporary,
        };
        if !recording.path("writes").exists() {
            recording.make(www, steps);
        }
        recording
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn make(&self, www: &Path, steps: &[Step]) {
        let (share, disk, writes) = (
            self.path("share"),
            self.path("disk"),
            self.path("writes.new"),
        );
        fs::create_dir_all(&share).unwrap();
        run(Command::new("cp").arg("-a").arg(www).arg(share.join("www")));
        fs::write(share.join("run"), script(steps)).unwrap();
        make_disk(&self.path("empty"));
        fs::copy(self.path("empty"), &disk).unwrap();
        File::create(&writes).unwrap();
        run(vm::command()
            .args(["--with", DD])
            .arg("--disk")
            .arg(&disk)
            .arg("--writes")
            .arg(&writes)
            .arg("--share")
            .arg(&share)
            .args(["--", "sh", "/share/run"]));
        fs::rename(writes, self.path("writes")).unwrap();
    }
}

/// The images that must be there, and the one that may be or not.
fn expected(
    marks: &[(usize, Vec<u8>)],
    cut: usize,
    steps: &[Step],
) -> (BTreeSet<&'static str>, Option<&'static str>) {
    let last = marks.iter().rev().find(|(entry, _)| *entry < cut);
    let Some((_, mark)) = last else {
        return (BTreeSet::new(), None);
    };
    let text = String::from_utf8_lossy(mark);
    let (word, number) = text.trim().split_once(' ').unwrap();
    let number: usize = number.parse().unwrap_or_else(|_| panic!("{text:?}"));
    let step = &steps[number];
    let mut there = step.after.clone();
    if word == "end" {
        return (there, None);
    }
    there.remove(step.image);
    (there, Some(step.image))
}

/// Layers by name, as a pull onto a whole disk makes them.
async fn whole_layers(node: &Node) -> BTreeMap<String, Manifest> {
    for (image, _) in IMAGES {
        pull(node, image).await;
    }
    let layers = fs::read_dir(node.root().join("layers")).unwrap();
    let layers = layers.map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, tree::manifest(&entry.path(), &[]).unwrap())
    });
    layers.collect()
}

async fn pull(node: &Node, image: &str) {
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: FileRegistry::reference(&format!(":{image}")),
            ..Default::default()
        }),
        ..Default::default()
    };
    node.images()
        .await
        .unwrap()
        .pull_image(request)
        .await
        .unwrap();
}

/// The disk is mounted for the daemon alone.
fn layers_dir(node: &Node) -> PathBuf {
    let (pid, root) = (node.daemon_pid().unwrap(), node.root());
    PathBuf::from(format!("/proc/{pid}/root{}/layers", root.display()))
}

/// Names of the images that are listed, each with all its layers as they must be.
async fn complete_images(node: &Node, layers: &BTreeMap<String, Manifest>) -> BTreeSet<String> {
    let mut images = node.images().await.unwrap();
    let listed = images
        .list_images(cri::ListImagesRequest::default())
        .await
        .unwrap();
    let mut names = BTreeSet::new();
    for image in listed.into_inner().images {
        let shown = node
            .corten_image(&["inspect", "--json", &image.id])
            .unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        for layer in shown["layers"].as_array().unwrap() {
            let name = layer["name"].as_str().unwrap();
            let found = tree::manifest(&layers_dir(node).join(name), &[]).unwrap();
            let differences = tree::differences(&found, &layers[name], 10);
            assert!(differences.is_empty(), "layer {name}: {differences:#?}");
        }
        let tag = image.repo_tags[0].rsplit_once(':').unwrap().1;
        names.insert(tag.to_owned());
    }
    names
}

/// Makes the disk of a cut from what was flushed and looks at it.
struct Cuts {
    node: Node,
    layers: BTreeMap<String, Manifest>,
    disk: PathBuf,
}

impl Cuts {
    async fn check(&mut self, must: &BTreeSet<&str>, may: Option<&str>) {
        let root = self.node.root();
        let (disk, mount) = (self.disk.display(), root.display());
        self.node
            .shell(&format!("mkdir -p {mount} && mount -o loop {disk} {mount}"))
            .unwrap();
        self.node.start_daemon().await.unwrap();
        let there = complete_images(&self.node, &self.layers).await;
        let there: BTreeSet<&str> = there
            .iter()
            .map(String::as_str)
            .filter(|name| Some(*name) != may)
            .collect();
        let must = must
            .iter()
            .copied()
            .filter(|name| Some(*name) != may)
            .collect();
        assert_eq!(there, must, "and perhaps {may:?}");
        self.node.corten_image(&["verify"]).unwrap();
        let log = self.node.log();
        assert!(!log.contains("layer is broken"), "{log}");

        for (image, _) in IMAGES {
            pull(&self.node, image).await;
        }
        assert_eq!(
            complete_images(&self.node, &self.layers).await.len(),
            IMAGES.len()
        );
        self.node.corten_image(&["verify"]).unwrap();
        let layers = names(&layers_dir(&self.node));
        assert_eq!(
            layers,
            self.layers.keys().cloned().collect(),
            "what no image needs stays"
        );
        self.node.end_daemon(Signal::SIGKILL).unwrap();
        self.node.shell(&format!("umount {mount}")).unwrap();
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_loses_nothing_that_was_said_to_be_there() {
    let seed = setting("CORTEN_POWER_CUT_SEED", 1);
    let count = setting("CORTEN_POWER_CUTS", 12);
    println!("seed {seed}, {count} cuts");
    let mut dice = Dice(0x2545_f491_4f6c_dd1d ^ (seed << 20));
    let mut node = Node::without_daemon(&[]).await.unwrap();
    let registry = FileRegistry::start(&node).unwrap();
    for (image, layers) in IMAGES {
        let layers: Vec<_> = layers.iter().map(|number| layer(*number)).collect();
        let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        registry
            .add_layers(image, &layers, &json!({ "Cmd": [image] }))
            .unwrap();
    }
    node.start_daemon().await.unwrap();
    let layers = whole_layers(&node).await;
    node.end_daemon(Signal::SIGKILL).unwrap();
    fs::rename(node.root(), node.dir().join("whole")).unwrap();

    let steps = steps(&mut dice);
    let recording = Recording::new(&registry.root(), &steps);
    let log = WriteLog::open(&recording.path("writes")).unwrap();
    let (flushed, disk) = (recording.path("flushed"), recording.path("cut"));
    fs::copy(recording.path("empty"), &flushed).unwrap();
    let marks = log.writes_to(MARKS).unwrap();
    assert_eq!(marks.len(), 2 * steps.len());
    let mut moments: Vec<usize> = (0..count).map(|_| dice.below(log.len())).collect();
    moments.sort_unstable();

    let mut cuts = Cuts {
        node,
        layers,
        disk: disk.clone(),
    };
    let mut done = 0;
    let flushed_file = File::options().write(true).open(&flushed).unwrap();
    for cut in moments {
        done = log.flush(&flushed_file, done, cut).unwrap();
        fs::copy(&flushed, &disk).unwrap();
        let file = File::options().write(true).open(&disk).unwrap();
        // Of what was not flushed nothing, all, or some.
        let mode = dice.below(4);
        log.leave(&file, done, cut, || match mode {
            0 => false,
            1 => true,
            _ => dice.below(2) == 0,
        })
        .unwrap();
        let (must, may) = expected(&marks, cut, &steps);
        println!(
            "cut at {cut} of {}, mode {mode}: {must:?}, perhaps {may:?}",
            log.len()
        );
        cuts.check(&must, may).await;
    }
}
