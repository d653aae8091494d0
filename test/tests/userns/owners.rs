//! Who owns what: processes, files of the image, files that are made, terminals.

use std::{fs, path::Path};

use corten_proto::cri;
use corten_test::{image, pod};
use tonic::Code;

use crate::site::{ROOT, Site, owner};

/// A program that shows who runs it, set-user-id.
const SETUID: &str = "test.example/setuid:1";

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_another_outside_and_so_are_its_files() {
    let mut site = Site::new().await;
    let mounts = site.node.shell("cat /proc/self/mountinfo").unwrap();
    let id = site.run("files", |_| {}).await;
    assert_eq!(site.node.shell("cat /proc/self/mountinfo").unwrap(), mounts);

    for process in ["1", "self"] {
        for map in ["uid_map", "gid_map"] {
            let seen = site
                .output(&id, &format!("cat /proc/{process}/{map}"))
                .await;
            let seen: Vec<_> = seen.split_whitespace().collect();
            assert_eq!(seen, ["0", "200000", "65536"], "{process} {map}");
        }
        let ids = format!("grep -E '^(Uid|Gid)' /proc/{process}/status");
        let seen = site.output(&id, &ids).await;
        assert_eq!(seen, "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n", "{process}");
    }
    let same = "for n in user mnt net ipc uts pid cgroup; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done | sort -u | wc -l";
    assert_eq!(site.output(&id, same).await, "7\n");
    let outside = site
        .node
        .shell("pgrep -f '^sleep 1000' | xargs -I{} stat -c %u /proc/{}");
    assert_eq!(outside.unwrap(), format!("{ROOT}\n"));

    // Layers, what is copied up, what is made, and what is taken away.
    let script = "stat -c %u:%g / /bin/sh /etc/passwd /home/app && echo x:x:7:7::/: >> /etc/passwd && mkdir /made \
                  && echo text > /made/file && chown 1000:1001 /made/file && rm /etc/group && ls -A /etc";
    let seen = site.output(&id, script).await;
    let (owners, names) = seen.split_at("0:0\n".len() * 4);
    assert_eq!(owners, "0:0\n".repeat(4));
    assert!(
        !names.contains("group") && names.contains("passwd"),
        "{names}"
    );
    let upper = site.node.root().join("containers").join(&id).join("upper");
    for path in ["", "made", "etc", "etc/passwd"] {
        assert_eq!(owner(&upper.join(path)), (ROOT, ROOT), "{path}");
    }
    assert_eq!(owner(&upper.join("made/file")), (ROOT + 1000, ROOT + 1001));

    // What the pod brings itself.
    let own = "for f in hostname hosts resolv.conf; do stat -c %u:%g /etc/$f; echo >> /etc/$f; done; \
               stat -c %u:%g /dev /dev/shm /dev/mqueue /dev/pts /dev/pts/ptmx; touch /dev/shm/x; stat -c %u /dev/shm/x";
    let seen = site.output(&id, own).await;
    assert_eq!(seen, format!("{}0\n", "0:0\n".repeat(8)));
    // It cannot make a device that could be opened, but has those that every container has.
    let refused = site.refused(&id, "mknod /tun c 10 200").await;
    assert!(refused.contains("Operation not permitted"), "{refused}");
    site.output(&id, "head -c 1 /dev/zero /dev/urandom > /dev/null")
        .await;
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_the_image_keep_their_numbers_and_working_directories() {
    let mut site = Site::new().await;
    let id = site
        .run("app", |config| {
            pod::security(config).run_as_username = "app".into();
            config.working_dir = "/work/deep".into();
            config.command = ["sh", "-c", "echo hello > /dev/stdout; sleep 1000"]
                .map(Into::into)
                .to_vec();
        })
        .await;
    let script = "id -u; id -G; echo $HOME; pwd; stat -c %u:%g /work/deep; touch made; echo again > /dev/stdout";
    let seen = site.output(&id, script).await;
    assert_eq!(
        seen,
        "1000\n1001 2000\n/home/app\n/work/deep\n1000:1001\nagain\n"
    );
    let upper = site.node.root().join("containers").join(&id).join("upper");
    assert_eq!(owner(&upper.join("work")), (ROOT, ROOT));
    assert_eq!(owner(&upper.join("work/deep")), (ROOT + 1000, ROOT + 1001));
    let user = pod::status(&mut site.runtime, &id)
        .await
        .unwrap()
        .user
        .unwrap()
        .linux
        .unwrap();
    assert_eq!((user.uid, user.gid), (1000, 1001));
    assert_eq!(user.supplemental_groups, [1001, 2000]);
    // It could open what it writes to by its name.
    site.node
        .shell_until(&format!(
            "grep hello {}/logs/app.log",
            site.node.dir().display()
        ))
        .await
        .unwrap();

    let mut stranger = pod::container("stranger", "sleep 1000");
    pod::security(&mut stranger).run_as_user = Some(cri::Int64Value { value: 70_000 });
    let (code, text) = site.create_fails(&stranger).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(
        text.contains("70000") && text.contains("user namespace"),
        "{text}"
    );
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_belongs_to_the_user() {
    let mut site = Site::new().await;
    let script =
        "stat -c %u:%g /dev/pts/0 /dev/console; readlink /proc/self/fd/0; echo x > /dev/console";
    let mut config = pod::container("terminal", script);
    config.tty = true;
    pod::security(&mut config).run_as_user = Some(cri::Int64Value { value: 1000 });
    let id = pod::run(&mut site.runtime, &site.pod, &config)
        .await
        .unwrap();
    let ended = pod::exited(&site.runtime, &id).await.unwrap();
    let log = fs::read_to_string(site.node.dir().join("logs/terminal.log")).unwrap();
    assert_eq!(ended.exit_code, 0, "{log}");
    for line in ["1000:5", "/dev/pts/0", " x"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    site.end().await;
}

/// Debian's cat with what it needs, set-user-id: busybox would give its rights back.
fn add_setuid_program(tree: &Path) -> anyhow::Result<()> {
    let libraries = [
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/libc.so.6",
    ];
    for (source, target) in libraries
        .map(|path| (path, path))
        .into_iter()
        .chain([("/bin/cat", "/bin/set-cat")])
    {
        let target = tree.join(target.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap())?;
        fs::copy(source, &target)?;
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    Ok(fs::set_permissions(tree.join("bin/set-cat"), mode)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn set_user_id_programs_make_the_namespaces_root() {
    let mut site = Site::new().await;
    image::load_changed(&site.node, SETUID, |tree, _| add_setuid_program(tree))
        .await
        .unwrap();
    let id = site
        .run("setuid", |config| {
            config.image.as_mut().unwrap().image = SETUID.into();
            pod::security(config).run_as_user = Some(cri::Int64Value { value: 1000 });
        })
        .await;
    let seen = site
        .output(&id, "set-cat /proc/self/status | grep -E '^(Uid|CapEff)'")
        .await;
    let seen: Vec<_> = seen.split_whitespace().collect();
    assert_eq!(seen[..5], ["Uid:", "1000", "0", "0", "0"]);
    assert_eq!(u64::from_str_radix(seen[6], 16).unwrap(), 0xa804_25fb);
    site.node.corten_image(&["rm", SETUID]).ok();
    pod::remove_pod(&mut site.runtime, &site.pod).await.unwrap();
}
