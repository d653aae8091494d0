//! Debian's docker-registry inside of a node, filled by skopeo.

use std::{fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{node::Node, token_server};

/// Nothing else listens in the node's network namespace.
pub const ADDRESS: &str = "127.0.0.1:5000";
/// All addresses of the node.
const LISTEN: &str = ":5000";
/// The same registry, at an address that a test gives to the node.
pub const ELSEWHERE: &str = "192.0.2.1:5000";
/// For all but [`Protection::None`].
pub const USER: &str = "tester";
pub const PASSWORD: &str = "secret";
/// bcrypt of [`PASSWORD`], by `htpasswd -nB`.
const HASH: &str = "$2b$04$txnMTIflARMZpBWJ0CtmZe7UYUKNo3dYwt5QX8su9hkwMC2KQZFqe";

/// What a client needs besides the address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protection {
    None,
    /// HTTPS by `registry-ca.pem` in the node's directory, and a password.
    Tls,
    /// The same HTTPS, and a token, which a server beside the registry gives for the password.
    Token,
}

/// Starts the registry and waits until it answers.
pub async fn start(node: &Node, protection: Protection) -> Result<()> {
    let dir = node.dir();
    let mut config = json!({
        "version": "0.1",
        "storage": { "filesystem": { "rootdirectory": dir.join("registry") } },
        "http": { "addr": LISTEN },
    });
    if protection != Protection::None {
        certify(node, &mut config)?;
    }
    match protection {
        Protection::None => {}
        Protection::Tls => demand_password(node, &mut config)?,
        Protection::Token => token_server::demand(node, &mut config)?,
    }
    let (file, log) = (dir.join("registry.yml"), dir.join("registry.log"));
    fs::write(&file, config.to_string())?;
    node.shell(&format!(
        "docker-registry serve {} >{} 2>&1 </dev/null &",
        file.display(),
        log.display()
    ))?;
    let scheme = scheme(protection);
    let ask = format!("curl --silent --insecure --output /dev/null {scheme}://{ADDRESS}/v2/");
    node.shell_until(&ask).await?;
    Ok(())
}

/// A hosts.toml that names the registry at `address` and, for HTTPS, its CA.
pub fn hosts(node: &Node, protection: Protection, address: &str) -> String {
    let server = format!("server = '{}://{address}'\n", scheme(protection));
    let ca = node.dir().join("registry-ca.pem");
    match protection {
        Protection::None => server,
        Protection::Tls | Protection::Token => format!("{server}ca = '{}'\n", ca.display()),
    }
}

fn scheme(protection: Protection) -> &'static str {
    match protection {
        Protection::None => "http",
        Protection::Tls | Protection::Token => "https",
    }
}

/// A CA and a certificate of it.
fn certify(node: &Node, config: &mut Value) -> Result<()> {
    let dir = node.dir();
    node.shell(&format!(
        "cd {}
         new='openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2'
         $new -subj /CN=ca -keyout registry-ca.key -out registry-ca.pem 2>&1
         $new -subj /CN=registry -keyout registry.key -out registry.pem -CA registry-ca.pem -CAkey registry-ca.key \
            -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1,IP:192.0.2.1 2>&1",
        dir.display()
    ))?;
    config["http"]["tls"] =
        json!({ "certificate": dir.join("registry.pem"), "key": dir.join("registry.key") });
    Ok(())
}

fn demand_password(node: &Node, config: &mut Value) -> Result<()> {
    let file = node.dir().join("htpasswd");
    fs::write(&file, format!("{USER}:{HASH}\n"))?;
    config["auth"]["htpasswd"] = json!({ "realm": "test", "path": file });
    Ok(())
}

/// Copies an OCI archive into the registry as `name`, with `options` of `skopeo copy`. Returns the digest of its manifest.
pub fn push(node: &Node, archive: &Path, name: &str, options: &[&str]) -> Result<String> {
    let (archive, digest) = (archive.display(), node.dir().join("pushed-digest"));
    node.shell(&format!(
        "skopeo --insecure-policy copy --quiet --dest-tls-verify=false --dest-creds {USER}:{PASSWORD} \
         --digestfile {} {} oci-archive:{archive} docker://{ADDRESS}/{name}",
        digest.display(),
        options.join(" ")
    ))?;
    Ok(fs::read_to_string(digest)?)
}

/// The manifest of `name` as the registry has it.
pub fn manifest(node: &Node, name: &str) -> Result<Value> {
    let raw = node.shell(&format!(
        "skopeo inspect --raw --tls-verify=false --creds {USER}:{PASSWORD} docker://{ADDRESS}/{name}"
    ))?;
    Ok(serde_json::from_str(&raw)?)
}
