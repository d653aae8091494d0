//! What gives the registry's tokens (distribution, docs/spec/auth/token.md): a script of busybox's httpd that signs with
//! openssl, behind socat for TLS.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    node::Node,
    registry::{PASSWORD, USER},
};

const REALM: &str = "https://127.0.0.1:5006/cgi-bin/token";
const SERVICE: &str = "test-registry";
const ISSUER: &str = "test-issuer";

/// Signs what it is asked for; httpd has seen to it that somebody with a password asks.
const SCRIPT: &str = r#"#!/bin/sh
cd DIR
encode() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
echo "$QUERY_STRING" >>token.log
scope=$(busybox httpd -d "$QUERY_STRING" | sed -n 's/.*scope=\([^&]*\).*/\1/p')
access=
if [ -n "$scope" ]; then
    kind=${scope%%:*} rest=${scope#*:}
    actions=$(echo "${rest##*:}" | sed 's/[^,]*/"&"/g')
    access="{\"type\": \"$kind\", \"name\": \"${rest%:*}\", \"actions\": [$actions]}"
fi
now=$(date +%s)
certificate=$(openssl x509 -in token.pem -outform DER | openssl base64 -A)
header=$(printf '{"typ": "JWT", "alg": "RS256", "x5c": ["%s"]}' "$certificate" | encode)
claims=$(printf '{"iss": "ISSUER", "sub": "%s", "aud": "SERVICE", "exp": %d, "nbf": %d, "iat": %d, "jti": "%d", "access": [%s]}' \
    "$REMOTE_USER" $((now + 300)) $((now - 60)) "$now" "$$" "$access" | encode)
signature=$(printf %s "$header.$claims" | openssl dgst -sha256 -sign token.key -binary | encode)
printf 'Content-Type: application/json\r\n\r\n{"token": "%s", "expires_in": 300}' "$header.$claims.$signature"
"#;

/// Starts the server, whose realm the registry's `config` then names. Needs the certificate of the registry.
pub(crate) fn demand(node: &Node, config: &mut Value) -> Result<()> {
    let dir = node.dir();
    let script = dir.join("tokens/cgi-bin/token");
    write_script(&script, dir)?;
    fs::write(
        dir.join("tokens.conf"),
        format!("/cgi-bin:{USER}:{PASSWORD}\n"),
    )?;
    node.shell(&format!(
        "cd {}
         openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout token.key -out token.pem 2>&1
         busybox httpd -p 127.0.0.1:5007 -h tokens -c $PWD/tokens.conf -r tokens
         socat OPENSSL-LISTEN:5006,reuseaddr,fork,cert=registry.pem,key=registry.key,verify=0 TCP:127.0.0.1:5007 \
            >socat.log 2>&1 </dev/null &",
        dir.display()
    ))?;
    config["auth"]["token"] = json!({
        "realm": REALM, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": dir.join("token.pem"),
    });
    Ok(())
}

fn write_script(path: &Path, dir: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let text = SCRIPT
        .replace("DIR", &dir.display().to_string())
        .replace("ISSUER", ISSUER)
        .replace("SERVICE", SERVICE);
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
