//! Networks of a test's own: configurations, and plugins that are scripts.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::node::Node;

/// A node, without its daemon yet, whose daemon looks for plugins in the test's own directory, too.
pub async fn node(options: &[&str]) -> Result<Node> {
    let mut node = Node::without_daemon(options).await?;
    for dir in [dir(&node).display().to_string(), "/usr/lib/cni".into()] {
        node.add_options(["--cni-bin-dir".to_owned(), dir]);
    }
    Ok(node)
}

/// Where the scripts lie.
pub fn dir(node: &Node) -> PathBuf {
    node.dir().join("plugins")
}

/// The list of these plugins, of version 1.0.0, becomes the node's network.
pub fn write_list(node: &Node, plugins: &Value) -> Result<()> {
    let list = json!({ "cniVersion": "1.0.0", "name": "test", "plugins": plugins });
    write(node, "10-test.conflist", &list)
}

/// A configuration as it is.
pub fn write(node: &Node, file: &str, configuration: &Value) -> Result<()> {
    let path = node.dir().join("net.d").join(file);
    Ok(fs::write(path, configuration.to_string())?)
}

/// A plugin.
pub fn install(node: &Node, name: &str, script: &str) -> Result<()> {
    fs::create_dir_all(dir(node))?;
    let path = dir(node).join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
    Ok(fs::set_permissions(
        &path,
        fs::Permissions::from_mode(0o755),
    )?)
}
