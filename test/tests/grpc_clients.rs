//! CRI clients that are made of other gRPC libraries than tonic, each with its defaults: what they send along with a call over
//! a Unix socket is their own (test/grpc).
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{path::PathBuf, process::Command};

use corten_test::{handler, node::Node};

/// Calls of the client in `language` on one daemon, of which so many have to be answered.
async fn check(language: &str, answers: usize) {
    let node = Node::start().await.unwrap();
    let client: PathBuf = handler::cache().unwrap().join("grpc").join(language);
    let output = Command::new(&client)
        .arg(node.socket())
        .output()
        .unwrap_or_else(|error| {
            panic!("{}: {error}; run hack/setup test", client.display());
        });
    let (answer, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{language}: {errors}");
    assert_eq!(
        answer.matches("corten").count(),
        answers,
        "{answer}{errors}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_core_is_served() {
    check("python", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_js_is_served() {
    check("node", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_java_is_served() {
    check("java", 3).await;
}

/// With the socket's path as the authority, as it is and escaped, besides the usual way.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_go_is_served_with_any_target() {
    check("go", 9).await;
}
