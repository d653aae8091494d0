//! Volumes that an image declares: a directory of the container's own, with what the image has there.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

use corten_proto::cri;
use corten_test::{image, leftovers::Leftovers, node::Node, pod, wait::limit};
use serde_json::json;
use tonic::Code;

const IMAGE: &str = "test.example/declares:1";

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
}

impl Site {
    /// A pod on a node that has the image with these `VOLUME`s.
    async fn new(options: &[&str], volumes: &[&str]) -> Self {
        let node = Node::start_with(options).await.unwrap();
        load(&node, volumes);
        let mut runtime = node.runtime().await.unwrap();
        let pod = pod::run_pod(&mut runtime, &pod::host_network_pod("declared"))
            .await
            .unwrap();
        Self { node, runtime, pod }
    }

    async fn create(&mut self, name: &str, mounts: Vec<cri::Mount>) -> pod::Reply<String> {
        let mut config = pod::container(name, "sleep 1000");
        config.image.as_mut().unwrap().image = IMAGE.into();
        config.mounts = mounts;
        pod::create(&mut self.runtime, &self.pod, &config).await
    }

    async fn run(&mut self, name: &str, mounts: Vec<cri::Mount>) -> String {
        let id = self.create(name, mounts).await.unwrap();
        pod::start(&mut self.runtime, &id).await.unwrap();
        id
    }

    async fn output(&mut self, id: &str, script: &str) -> String {
        pod::output(&mut self.runtime, id, script).await.unwrap()
    }

    fn volumes(&self, id: &str) -> PathBuf {
        self.node.root().join("containers").join(id).join("volumes")
    }
}

/// Busybox, and a layer with a tree of everything that can be in one.
fn load(node: &Node, volumes: &[&str]) {
    let dir = node.dir();
    let mut tree = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, uid: u64, kind: tar::EntryType, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(uid + 1);
        header.set_mtime(1_000_000_000);
        header.set_size(if kind.is_file() { 6 } else { 0 });
        if kind.is_symlink() || kind.is_hard_link() {
            return tree.append_link(&mut header, path, target).unwrap();
        }
        let content: &[u8] = if kind.is_file() { b"image\n" } else { b"" };
        tree.append_data(&mut header, path, content).unwrap();
    };
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
    add("data", 0o2750, 1000, Directory, "");
    add("data/file", 0o4751, 1001, Regular, "");
    add("data/again", 0, 0, Link, "data/file");
    add("data/link", 0o777, 1002, Symlink, "/etc/passwd");
    add("data/pipe", 0o620, 1003, Fifo, "");
    add("data/dir", 0o1777, 1004, Directory, "");
    add("data/dir/deep", 0o600, 1005, Regular, "");
    add("data/sub", 0o711, 1006, Directory, "");
    add("data/sub/inner", 0o644, 1007, Regular, "");
    add("to-proc", 0o777, 0, Symlink, "/proc");
    add("to-data", 0o777, 0, Symlink, "/data");
    add("plain", 0o644, 0, Regular, "");
    let tree = tree.into_inner().unwrap();
    let declared: serde_json::Map<_, _> = volumes
        .iter()
        .map(|path| ((*path).to_owned(), json!({})))
        .collect();
    let config = json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": declared });
    let base = fs::read(image::busybox_layer(dir).unwrap()).unwrap();
    let archive = image::archive_of_layers(dir, &[&base, &tree], &config, IMAGE).unwrap();
    let archive = archive.display().to_string();
    node.corten_image(&["load", &archive]).unwrap();
}

const LOOK: &str = "cd /data && stat -c '%n %F %a %u %g %h %Y' . file link pipe dir dir/deep && cat again dir/deep";

#[tokio::test(flavor = "multi_thread")]
async fn what_the_image_has_is_copied_with_its_look() {
    let mut site = Site::new(&[], &["/data", "/made/here"]).await;
    let before = Leftovers::count(&site.node).unwrap();
    let id = site.run("one", Vec::new()).await;
    let time = 1_000_000_000;
    let want = format!(
        ". directory 2750 1000 1001 4 {time}\nfile regular file 4751 1001 1002 2 {time}\n\
         link symbolic link 777 1002 1003 1 {time}\npipe fifo 620 1003 1004 1 {time}\n\
         dir directory 1777 1004 1005 2 {time}\ndir/deep regular file 600 1005 1006 1 {time}\nimage\nimage\n"
    );
    assert_eq!(site.output(&id, LOOK).await, want);
    let links = "readlink /data/link; test /data/file -ef /data/again && echo same; stat -c '%a %u' /made/here";
    assert_eq!(site.output(&id, links).await, "/etc/passwd\nsame\n755 0\n");
    let mounted = "grep -c -E ' /(data|made/here) ' /proc/mounts";
    assert_eq!(site.output(&id, mounted).await, "2\n");

    // It is the container's own: neither another's nor part of its root.
    site.output(&id, "echo mine >/data/mine; rm /data/file")
        .await;
    assert!(site.volumes(&id).join("0/mine").exists());
    let upper = site.node.root().join("containers").join(&id).join("upper");
    assert!(!upper.join("data").exists());
    let other = site.run("other", Vec::new()).await;
    assert_eq!(
        site.output(&other, "ls /data").await,
        "again\ndir\nfile\nlink\npipe\nsub\n"
    );

    for id in [id, other] {
        pod::stop(&mut site.runtime, &id, 0).await.unwrap();
        let request = cri::RemoveContainerRequest { container_id: id };
        site.runtime.remove_container(request).await.unwrap();
    }
    Leftovers::settle(&site.node, &before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_attributes_are_copied() {
    let mut site = Site::new(&[], &["/data"]).await;
    // As a layer has them: the layer itself is at hand.
    let layers = site.node.root().join("layers").display().to_string();
    let set = format!(
        "for f in {layers}/*/data/file; do setfattr -n user.note -v kept $f && setcap cap_net_raw+ep $f; done"
    );
    site.node.shell(&set).unwrap();
    let id = site.run("xattrs", Vec::new()).await;
    let file = site.volumes(&id).join("0/file").display().to_string();
    let seen = site
        .node
        .shell(&format!(
            "getfattr --only-values -n user.note {file}; echo; getcap {file}"
        ))
        .unwrap();
    assert!(
        seen.starts_with("kept\n") && seen.contains("cap_net_raw=ep"),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_the_request_takes_a_volumes_place() {
    let mut site = Site::new(&[], &["/data", "/data/sub"]).await;
    let own = site.node.dir().join("own");
    fs::create_dir(&own).unwrap();
    let id = site.run("on", vec![pod::mount(&own, "/data")]).await;
    assert_eq!(site.output(&id, "ls -A /data").await, "");
    assert!(!site.volumes(&id).exists());
    // Below one, it lies on it.
    let id = site
        .run("below", vec![pod::mount(&own, "/data/sub/mine")])
        .await;
    let listed = site.output(&id, "ls /data /data/sub").await;
    assert_eq!(
        listed,
        "/data:\nagain\ndir\nfile\nlink\npipe\nsub\n\n/data/sub:\ninner\nmine\n"
    );
    assert_eq!(fs::read_dir(site.volumes(&id)).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_covers_nothing_but_the_images_files() {
    let mut site = Site::new(&[], &["/", "/proc", "/proc/self", "/dev/shm", "/etc/hosts"]).await;
    let id = site.run("ours", Vec::new()).await;
    let kinds = "stat -f -c %T /proc /dev/shm; test -d /proc/self/fd && echo proc";
    assert_eq!(site.output(&id, kinds).await, "proc\ntmpfs\nproc\n");
    assert!(!site.volumes(&id).exists());

    for (volume, reason) in [
        ("/to-proc", "leads into another mount"),
        ("/to-proc/self", "leads into another mount"),
        ("/plain", "Not a directory"),
    ] {
        load(&site.node, &[volume]);
        let refused = site.create("refused", Vec::new()).await.unwrap_err();
        assert!(
            refused.message().contains(volume) && refused.message().contains(reason),
            "{refused}"
        );
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(
            refused.message().starts_with("image config Volumes: "),
            "{refused}"
        );
    }
    // A symlink may lead to where a volume may be.
    load(&site.node, &["/to-data"]);
    let id = site.run("link", Vec::new()).await;
    site.output(&id, "touch /data/new && test -u /to-data/file")
        .await;
    assert!(site.volumes(&id).join("0/new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_can_be_ignored() {
    let mut site = Site::new(&["--declared-volumes", "ignore"], &["/data"]).await;
    let id = site.run("ignored", Vec::new()).await;
    site.output(&id, "touch /data/new").await;
    let root = site.node.root().join("containers").join(&id);
    assert!(root.join("upper/data/new").exists() && !root.join("volumes").exists());
}

/// A file of this size without a byte in it.
const HOLE: u64 = 200 << 30;

#[tokio::test(flavor = "multi_thread")]
async fn holes_of_an_images_files_take_nothing() {
    let mut site = Site::new(&[], &["/data"]).await;
    let dir = site.node.dir().to_owned();
    let tree = dir.join("sparse");
    fs::create_dir_all(tree.join("data")).unwrap();
    let file = fs::File::create(tree.join("data/hole")).unwrap();
    file.set_len(HOLE).unwrap();
    let layer = dir.join("sparse.tar");
    let pack = format!(
        "tar --sparse --format=gnu -C {} -cf {} data",
        tree.display(),
        layer.display()
    );
    site.node.shell(&pack).unwrap();
    let base = fs::read(image::busybox_layer(&dir).unwrap()).unwrap();
    let config = json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": { "/data": {} } });
    let layers = [&base[..], &fs::read(&layer).unwrap()];
    let archive = image::archive_of_layers(&dir, &layers, &config, IMAGE).unwrap();
    site.node
        .corten_image(&["load", &archive.display().to_string()])
        .unwrap();
    let created = site.run("sparse", Vec::new());
    let created = tokio::time::timeout(limit(), created).await;
    let id = created.unwrap_or_else(|_| panic!("it is copied for ever"));
    let size = site.output(&id, "stat -c %s /data/hole").await;
    assert_eq!(size, format!("{HOLE}\n"));
    let copy = site.volumes(&id).join("0/hole");
    let blocks = fs::metadata(copy).unwrap().blocks();
    assert!(blocks < 64, "{blocks} blocks are used");
}
