//! The same on a kernel that wants to see id-mapped layers attached, and has cgroup v2 alone: Debian's 6.1, in a virtual
//! machine.

use std::{
    fs::{self, File},
    process::Command,
};

use corten_test::{image, vm};

const NAME: &str = "test.example/layers:1";
const USERS: &str = r#"{"mode": 0, "uids": [{"host_id": 200000, "container_id": 0, "length": 65536}],
    "gids": [{"host_id": 200000, "container_id": 0, "length": 65536}]}"#;
const MAPPED: &str = r#""uidMappings": [{"host_id": 200000, "container_id": 0, "length": 65536}],
    "gidMappings": [{"host_id": 200000, "container_id": 0, "length": 65536}]"#;
const SCRIPT: &str = "set -e
mkdir /node
mount -t ext4 /dev/vda /node
mkdir /node/volume /run/volume
serve() {
    corten serve --root /node/root --state /run/corten --socket /run/corten.sock --certs-dir /node/certs \
        --cni-conf-dir /node/net >>/run/log 2>&1 &
    for try in $(seq 300); do [ -S /run/corten.sock ] || sleep 0.1; done
}
trap 'cat /run/log' EXIT
serve
corten image load --socket /run/corten.sock /share/archive
export CONTAINER_RUNTIME_ENDPOINT=unix:///run/corten.sock
pod=$(crictl --timeout 60s runp /share/pod.json)
container=$(crictl --timeout 60s create --no-pull $pod /share/container.json /share/pod.json)
crictl --timeout 60s start $container
inside() { crictl --timeout 60s exec --sync $container sh -c \"$1\"; }
echo first $(inside 'cat /proc/1/comm')
echo map $(inside 'cat /proc/self/uid_map')
echo owners $(inside 'stat -c %u /bin/sh /layers/2 /volume /image /image/layers/1 /sys/fs/cgroup')
inside 'echo >> /etc/passwd; touch /made /volume/made; mkdir /work && chown 1000 /work'
upper=/node/root/containers/$container/upper
echo outside $(stat -c %u $upper/made $upper/etc/passwd $upper/work /node/volume/made)
inside 'mount -o remount,rw /image || umount /image || touch /image/x' >/dev/null 2>&1 || echo locked
crictl --timeout 60s create --no-pull $pod /share/tmpfs.json /share/pod.json 2>&1 | grep -o 'file system tmpfs cannot map ids'
crictl --timeout 60s rmp --force $pod
kill $!
wait $!
echo 0 >/proc/sys/user/max_user_namespaces
serve
crictl --timeout 60s runp /share/pod.json 2>&1 | grep -o 'cannot give pods user namespaces.*max_user_namespaces'
trap - EXIT
";

#[test]
fn an_older_kernel_has_them_too() {
    if !vm::is_outside() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path().join("share");
    fs::create_dir(&share).unwrap();
    let archive = image::archive_of_many(dir.path(), 3, NAME).unwrap();
    fs::rename(archive, share.join("archive")).unwrap();
    let pod = format!(
        r#"{{"metadata": {{"name": "users", "namespace": "test", "uid": "1"}}, "linux": {{"security_context":
            {{"namespace_options": {{"network": 2, "pid": 0, "userns_options": {USERS}}}}}}}}}"#
    );
    let container = |name: &str, volume: &str| {
        format!(
            r#"{{"metadata": {{"name": "{name}"}}, "image": {{"image": "{NAME}"}}, "command": ["sleep", "1000"],
                "linux": {{"security_context": {{"namespace_options": {{"pid": 0}},
                    "capabilities": {{"add_capabilities": ["SYS_ADMIN"]}}}}}}, "mounts": [
                {{"container_path": "/volume", "host_path": "{volume}", {MAPPED}}},
                {{"container_path": "/image", "readonly": true, "image": {{"image": "{NAME}"}}}}]}}"#
        )
    };
    for (name, text) in [
        ("pod.json", pod),
        ("container.json", container("users", "/node/volume")),
        ("tmpfs.json", container("tmpfs", "/run/volume")),
        ("run", SCRIPT.to_owned()),
    ] {
        fs::write(share.join(name), text).unwrap();
    }
    // tmpfs, which the machine's root is, cannot map ids before Linux 6.3.
    let disk = dir.path().join("disk");
    File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    let made = Command::new("mkfs.ext4")
        .arg("-q")
        .arg(&disk)
        .status()
        .unwrap();
    assert!(made.success());
    let mut command = vm::command();
    command.args(["--memory", "2048"]);
    command.arg("--share").arg(&share).arg("--disk").arg(&disk);
    let output = command.args(["--", "sh", "/share/run"]).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    for line in [
        // Before Linux 6.17 proc cannot be asked for by its PID namespace.
        "first corten-pod",
        "map 0 200000 65536",
        // The cgroup is the host's.
        "owners 0 0 0 0 0 65534",
        "outside 200000 200000 201000 0",
        "locked",
        "file system tmpfs cannot map ids",
        // A host that cannot have any says so.
        "cannot give pods user namespaces: make a user namespace",
        "/proc/sys/user/max_user_namespaces",
    ] {
        assert!(out.contains(line), "{line}: {out}{err}");
    }
}
