//! A container's user, without any capability, swaps what lies on the way to the working directory, in its root and in a
//! volume of the host, while commands and further containers are set up by root: nothing becomes the user's that was not, and
//! no command has a directory made.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use corten_proto::cri;
use corten_test::{image, node::Node, pod, wait::until};

const USER: u32 = 1000;
const IMAGE: &str = "test.example/open-home:1";
/// Those of the image's root and of the volume where the user may put what it likes.
const PLACES: [&str; 2] = ["/home/app", "/volume"];
/// Makes `work` a directory, then a link to what is root's, there or not, again and again; at the end a directory. It counts.
const SWAP: &str = "cd PLACE && n=0 && while ! [ -e /volume/stop ]; do \
    for aim in /host /host/missing /etc /etc/missing /host/kept; do \
        rm -rf work && mkdir work && rm -rf work && busybox ln -s $aim work && n=$((n+1)) && echo $n > /volume/rounds; \
        busybox usleep 3000; rm -f work; busybox usleep 1000; done; done; mkdir -p work; touch /volume/ended; exec sleep 1000";
/// Far more than it took when an exec made its working directory: 3 in the root, 21 in a volume.
const COMMANDS: usize = 120;
const CREATIONS: usize = 40;

struct Site {
    node: Node,
    runtime: pod::Runtime,
    pod: String,
    /// The user's on the host.
    volume: PathBuf,
    /// The host's own, with `kept` in it.
    host: PathBuf,
}

impl Site {
    async fn new() -> Self {
        let node = Node::start().await.unwrap();
        let open_home = |tree: &Path, _config: &mut _| {
            let all = fs::Permissions::from_mode(0o777);
            Ok(fs::set_permissions(tree.join("home/app"), all)?)
        };
        image::load_changed(&node, IMAGE, open_home).await.unwrap();
        let (volume, host) = (node.dir().join("volume"), node.dir().join("hosts"));
        fs::create_dir(&volume).unwrap();
        chown(&volume, Some(USER), Some(USER)).unwrap();
        fs::create_dir_all(host.join("kept")).unwrap();
        let mut runtime = node.runtime().await.unwrap();
        let config = pod::logged(&node, pod::host_network_pod("swapped"));
        let pod = pod::run_pod(&mut runtime, &config).await.unwrap();
        Self {
            node,
            runtime,
            pod,
            volume,
            host,
        }
    }

    /// A container of the user's that works in `work` of this place.
    fn container(&self, name: &str, place: &str) -> cri::ContainerConfig {
        let mut config = pod::container(name, &SWAP.replace("PLACE", place));
        config.image = Some(cri::ImageSpec {
            image: IMAGE.into(),
            ..Default::default()
        });
        config.working_dir = format!("{place}/work");
        config.mounts = [(&self.volume, "/volume"), (&self.host, "/host")]
            .map(|(host, container)| pod::mount(host, container))
            .into();
        let security = pod::security(&mut config);
        security.run_as_user = Some(cri::Int64Value { value: USER.into() });
        security.no_new_privs = true;
        security.capabilities = Some(cri::Capability {
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        });
        config
    }

    /// What the host's directory has, with the owner of each.
    fn hosts(&self) -> Vec<(String, u32)> {
        let owner = |path: &Path| path.symlink_metadata().unwrap().uid();
        let mut all = vec![(".".into(), owner(&self.host))];
        for entry in fs::read_dir(&self.host).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            all.push((name, owner(&entry.path())));
        }
        all.sort();
        all
    }

    fn rounds(&self) -> usize {
        let text = fs::read_to_string(self.volume.join("rounds")).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    }

    /// Waits until the container has swapped so often.
    async fn swapped(&self, rounds: usize) {
        until(|| async { (self.rounds() >= rounds).then_some(()).ok_or(self.rounds()) })
            .await
            .unwrap();
    }

    /// Has the container leave a directory, and removes what tells of that.
    async fn end_swaps(&self) {
        fs::write(self.volume.join("stop"), "").unwrap();
        until(|| async { fs::metadata(self.volume.join("ended")) })
            .await
            .unwrap();
        for name in ["stop", "ended", "rounds"] {
            fs::remove_file(self.volume.join(name)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_makes_or_chowns_what_a_link_leads_to() {
    let mut site = Site::new().await;
    let before = [(".".to_owned(), 0), ("kept".to_owned(), 0)];
    for place in PLACES {
        let config = site.container(&place.replace('/', "-"), place);
        let id = pod::run(&mut site.runtime, &site.pod, &config)
            .await
            .unwrap();
        site.swapped(5).await;
        let mut ran = 0;
        for _ in 0..COMMANDS {
            // Where there is no directory at the moment, or none that the user may enter, it does not run.
            let done = pod::exec(&mut site.runtime, &id, "true").await;
            ran += usize::from(done.is_ok_and(|done| done.exit_code == 0));
            assert_eq!(site.hosts(), before, "{place}");
        }
        assert!(ran > 0, "{place}: no command has run");
        site.end_swaps().await;
        let script = "stat -c %u /etc /home /; ls -d /etc/missing 2>/dev/null; id -u";
        let seen = pod::output(&mut site.runtime, &id, script).await.unwrap();
        assert_eq!(seen, "0\n0\n0\n1000\n", "{place}");
        pod::stop(&mut site.runtime, &id, 0).await.unwrap();
    }
    pod::remove_pod(&mut site.runtime, &site.pod).await.unwrap();
}

/// What is behind a link is made as root's, as with other runtimes; nothing that root has becomes the user's.
#[tokio::test(flavor = "multi_thread")]
async fn no_creation_gives_the_user_what_a_link_leads_to() {
    let mut site = Site::new().await;
    let config = site.container("swapper", "/volume");
    let swapper = pod::run(&mut site.runtime, &site.pod, &config)
        .await
        .unwrap();
    site.swapped(5).await;
    let mut made = 0;
    for number in 0..CREATIONS {
        let mut config = site.container(&format!("made-{number}"), "/volume");
        if number % 2 == 0 {
            config.working_dir = "/volume/work/deep".into();
        }
        let created = pod::create(&mut site.runtime, &site.pod, &config).await;
        let hosts = site.hosts();
        assert!(hosts.iter().all(|(_, owner)| *owner == 0), "{hosts:?}");
        let kept = site.host.join("kept/deep");
        assert!(kept.symlink_metadata().map_or(0, |kept| kept.uid()) == 0);
        if let Ok(id) = created {
            made += 1;
            let root = site.node.root().join("containers").join(&id);
            let etc = root.join("upper/etc").symlink_metadata();
            assert_eq!(etc.map_or(0, |etc| etc.uid()), 0, "/etc of a container");
            let request = cri::RemoveContainerRequest { container_id: id };
            site.runtime.remove_container(request).await.unwrap();
        }
    }
    assert!(made > 0, "no container was made at all");
    site.end_swaps().await;
    pod::stop(&mut site.runtime, &swapper, 0).await.unwrap();
    pod::remove_pod(&mut site.runtime, &site.pod).await.unwrap();
}
