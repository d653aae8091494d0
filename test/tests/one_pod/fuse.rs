//! A file server by FUSE (linux/fuse.h) that has one file, answers what it likes to, and leaves others waiting.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::AsRawFd,
    path::Path,
};

use corten_proto::cri;
use nix::mount::{MsFlags, mount};

use super::site::{SHARED, Site, is_in_container};

const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const STATFS: u32 = 17;
const INIT: u32 = 26;
const IOCTL: u32 = 39;
/// Requests that want no answer: FORGET, RELEASE, INTERRUPT, BATCH_FORGET.
const SILENT: [u32; 4] = [2, 18, 36, 42];
/// Operations that are never answered: READ, WRITE, FLUSH, POLL. Others do not exist.
const NEVER: [u32; 4] = [15, 16, 25, 40];

/// The server, in a container: puts its file over the one that `FUSE_TARGET` names.
#[test]
fn server() {
    if !is_in_container() {
        return;
    }
    let target = std::env::var("FUSE_TARGET").unwrap();
    let mut device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let options = format!(
        "fd={},rootmode=100666,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    );
    mount(
        Some("hostile"),
        &*target,
        Some("fuse"),
        MsFlags::empty(),
        Some(&*options),
    )
    .unwrap();
    fs::write(Path::new(SHARED).join("serves"), "").unwrap();
    let mut request = vec![0; 1 << 17];
    while let Ok(length) = device.read(&mut request) {
        let request = &request[..length];
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let operation = word(4);
        if SILENT.contains(&operation) {
            continue;
        }
        if NEVER.contains(&operation) {
            fs::write(Path::new(SHARED).join("waits"), operation.to_string()).unwrap();
            continue;
        }
        let (error, body) = answer(operation, request);
        let length = u32::try_from(16 + body.len()).unwrap();
        let head = [
            &length.to_ne_bytes()[..],
            &error.to_ne_bytes(),
            &request[8..16],
        ]
        .concat();
        // One that was given up meanwhile wants none.
        let _ = device.write(&[head, body].concat());
    }
}

fn answer(operation: u32, request: &[u8]) -> (i32, Vec<u8>) {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    match operation {
        // Version 7.31, a page at a time.
        INIT => (
            0,
            words(&[7, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        GETATTR | SETATTR => {
            // Valid for ever; inode 1 of 1 MiB, mode 0100666 with one link, blocks of a page.
            let valid = words(&[u32::MAX, 0, 0, 0]);
            let numbers = words(&[1, 0, 1 << 20, 0, 2048, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let look = words(&[0o100_666, 1, 0, 0, 0, 4096, 0]);
            (0, [valid, numbers, look].concat())
        }
        OPEN => (0, words(&[1, 0, 0, 0])),
        STATFS => (0, vec![0; 80]),
        // Whatever is asked of a terminal is done; its other end (TIOCGPTPEER) is descriptor 2.
        IOCTL => {
            let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
            let result = if word(52) == 0x5441 { 2 } else { 0 };
            let data = vec![0; usize::try_from(word(68)).unwrap()];
            (0, [words(&[result, 0, 0, 0]), data].concat())
        }
        // ENOSYS
        _ => (-38, Vec::new()),
    }
}

impl Site {
    /// Runs the server in a container that may mount and has the device, and no more.
    pub(crate) async fn serve(
        &self,
        pod: &str,
        options: &cri::NamespaceOption,
        target: &str,
    ) -> String {
        let mut config = self.attacker("server", options, &["SYS_ADMIN"]);
        config.envs.push(cri::KeyValue {
            key: "FUSE_TARGET".into(),
            value: target.into(),
        });
        config.devices = vec![cri::Device {
            host_path: "/dev/fuse".into(),
            container_path: "/dev/fuse".into(),
            permissions: "rwm".into(),
        }];
        let script = "touch /tmp/file; exec /attack --exact fuse::server";
        config.command = ["sh", "-c", script].map(Into::into).into();
        let id = self.run(pod, &config).await;
        self.wait_for("serves").await;
        id
    }
}
