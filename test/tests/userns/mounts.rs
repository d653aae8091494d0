//! Volumes with mapped ids, and mounts that hold against root inside.

use std::{fs, path::Path};

use corten_proto::cri;
use corten_test::{image, pod};
use tonic::Code;

use crate::site::{Site, add_capabilities, mapped, owner};

/// What has no number inside (/proc/sys/kernel/overflowuid).
const NOBODY: &str = "65534";

#[tokio::test(flavor = "multi_thread")]
async fn volumes_show_their_ids_when_they_are_mapped() {
    let mut site = Site::new().await;
    let dir = site.node.dir().join("volume");
    fs::create_dir(&dir).unwrap();
    let (file, tmpfs) = (dir.join("file"), site.node.dir().join("secret"));
    fs::write(&file, "text").unwrap();
    std::os::unix::fs::chown(&file, Some(1000), Some(1001)).unwrap();
    let make = format!(
        "mkdir {0} && mount -t tmpfs none {0} && echo x > {0}/token",
        tmpfs.display()
    );
    site.node.shell(&make).unwrap();
    let id = site
        .run("volumes", |config| {
            config.mounts = vec![
                mapped(&dir, "/mapped"),
                pod::mount(&dir, "/plain"),
                mapped(&file, "/single"),
            ];
            if maps_tmpfs() {
                config.mounts.push(mapped(&tmpfs, "/secret"));
            }
        })
        .await;
    let owners = "stat -c %u:%g /mapped /mapped/file /plain /single";
    let seen = site.output(&id, owners).await;
    let nobody = format!("{NOBODY}:{NOBODY}");
    let want = ["0:0", "1000:1001", &nobody, "1000:1001"];
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), want);
    if maps_tmpfs() {
        let owner = site.output(&id, "stat -c %u:%g /secret/token").await;
        assert_eq!(owner, "0:0\n");
    } else {
        println!("SKIP a volume on tmpfs: the kernel is older than 6.3");
    }
    site.output(
        &id,
        "touch /mapped/root && touch /mapped/app && chown 1000 /mapped/app",
    )
    .await;
    assert_eq!(owner(&dir.join("root")), (0, 0));
    assert_eq!(owner(&dir.join("app")).0, 1000);
    site.refused(&id, "touch /plain/x").await;
    site.node
        .shell(&format!("umount {0} && rmdir {0}", tmpfs.display()))
        .unwrap();
    site.end().await;
}

/// Since Linux 6.3. What an older kernel makes of it is in `older_kernel.rs`.
fn maps_tmpfs() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut numbers = numbers.map(str::parse::<u32>);
    let mut number = || numbers.next().unwrap().unwrap();
    (number(), number()) >= (6, 3)
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_images_belong_to_root_inside() {
    let mut site = Site::new().await;
    let name = "test.example/declared:1";
    let declare = |tree: &Path, config: &mut serde_json::Value| {
        fs::create_dir(tree.join("data"))?;
        fs::write(tree.join("data/file"), "text")?;
        config["Volumes"] = serde_json::json!({ "/data": {} });
        Ok(())
    };
    image::load_changed(&site.node, name, declare)
        .await
        .unwrap();
    let id = site
        .run("images", |config| {
            config.image.as_mut().unwrap().image = name.into();
            config.mounts = vec![cri::Mount {
                container_path: "/image".into(),
                readonly: true,
                image: config.image.clone(),
                ..Default::default()
            }];
        })
        .await;
    let script = "stat -c %u:%g /image /image/bin/sh /data /data/file; echo more >> /data/file; touch /data/made";
    assert_eq!(site.output(&id, script).await, "0:0\n".repeat(4));
    site.refused(&id, "touch /image/x").await;
    pod::remove_pod(&mut site.runtime, &site.pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_cannot_be_mapped_is_told() {
    let mut site = Site::new().await;
    // The kernel's own file systems cannot.
    let mut config = pod::container("kernel", "sleep 1000");
    config.mounts = vec![mapped(Path::new("/proc"), "/host-proc")];
    let (code, text) = site.create_fails(&config).await;
    assert_eq!(code, Code::InvalidArgument);
    for word in ["map the ids of", "/proc on /host-proc", "file system proc"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_from_outside_cannot_be_changed_by_root_inside() {
    let mut site = Site::new().await;
    let dir = site.node.dir().join("volume");
    fs::create_dir(&dir).unwrap();
    let id = site
        .run("strong", |config| {
            add_capabilities(config, &["SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN"]);
            let readonly = cri::Mount {
                readonly: true,
                ..mapped(&dir, "/readonly")
            };
            config.mounts = vec![readonly];
            // The default profile of AppArmor lets nobody mount.
            pod::unconfine(config);
            pod::security(config).masked_paths = vec!["/proc/keys".into()];
            pod::security(config).readonly_paths = vec!["/proc/sys".into()];
        })
        .await;
    // It may mount, and rules its network.
    site.output(
        &id,
        "mkdir /m && mount -t tmpfs none /m && touch /m/x && ip address add 10.99.99.99/32 dev lo",
    )
    .await;
    for script in [
        "mount -o remount,rw /readonly",
        "mount -o remount,rw,bind /readonly",
        "umount /readonly",
        "umount -l /readonly",
        "mkdir /b && mount -o bind /readonly /b && mount -o remount,rw,bind /b && touch /b/x",
        "touch /readonly/x",
        "umount /proc/keys",
        "umount /proc/sys",
        "mount -o remount,rw,bind /proc/sys",
        "umount /sys",
        "mount -o remount,rw /sys",
        "umount /etc/hosts",
        "unshare -m umount /readonly",
    ] {
        site.refused(&id, script).await;
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    site.end().await;
}
