//! Debian's docker-registry on a free loopback port, filled by skopeo.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::image::Image;

pub(crate) struct Registry {
    child: Child,
    /// Shape: `127.0.0.1:41234`.
    pub(crate) address: String,
    storage: PathBuf,
    dir: TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = dir.path().join("storage");
        Self::serve(dir, storage, "", "")
    }

    /// Another door to the content of `other`, with more lines of config below `http:` and at the
    /// top level.
    pub(crate) fn start_on(other: &Self, http: &str, top: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::serve(dir, other.storage.clone(), http, top)
    }

    fn serve(dir: TempDir, storage: PathBuf, http: &str, top: &str) -> Self {
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{http}\n{top}\n",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed");
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(
                log.read_line(&mut line).unwrap(),
                0,
                "the registry did not start"
            );
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find(['"', ',']).unwrap();
                break rest[..end].to_owned();
            }
        };
        // Its log goes on; without a reader it would stop.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self {
            child,
            address,
            storage,
            dir,
        }
    }

    /// Returns the reference `<address>/<name>`.
    pub(crate) fn push(&self, image: &Image, name: &str) -> String {
        self.push_with(image, name, &["--preserve-digests"])
    }

    pub(crate) fn push_with(&self, image: &Image, name: &str, options: &[&str]) -> String {
        let layout = self
            .dir
            .path()
            .join(format!("layout-{}", name.replace(['/', ':'], "-")));
        image.write_layout(&layout, "image");
        let reference = format!("{}/{name}", self.address);
        run(Command::new("skopeo")
            .args([
                "copy",
                "--quiet",
                "--insecure-policy",
                "--dest-tls-verify=false",
            ])
            .args(options)
            .arg(format!("oci:{}:image", layout.display()))
            .arg(format!("docker://{reference}")));
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[track_caller]
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A CA and a certificate for 127.0.0.1 by it: `ca.pem`, `server.pem`, `server.key`.
pub(crate) fn certificates(dir: &Path) {
    let openssl = |arguments: &[&str]| {
        run(Command::new("openssl").args(arguments).current_dir(dir));
    };
    let ec = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let ca = [
        "req",
        "-x509",
        "-subj",
        "/CN=test ca",
        "-days",
        "2",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ];
    openssl(&[&ca[..], &ec].concat());
    let request = [
        "req",
        "-new",
        "-subj",
        "/CN=registry",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ];
    openssl(&[&request[..], &ec].concat());
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "san",
        "-out",
        "server.pem",
    ]);
}
