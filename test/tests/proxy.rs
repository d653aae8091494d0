//! Registries behind an HTTP proxy: tinyproxy, which writes down what it is asked for.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use corten_proto::cri;
use corten_test::{
    image,
    node::Node,
    registry::{self, ELSEWHERE, PASSWORD, Protection, USER},
};
use nix::sys::signal::Signal;
use tonic::{Code, Status};

const PROXY: &str = "127.0.0.1:8888";

struct Site {
    node: Node,
    protection: Protection,
}

impl Site {
    async fn new(protection: Protection) -> Self {
        let node = Node::start_with(&[]).await.unwrap();
        node.shell("ip address add 192.0.2.1/32 dev lo").unwrap();
        registry::start(&node, protection).await.unwrap();
        let archive = image::busybox_archive(node.dir()).unwrap();
        registry::push(&node, &archive, "tools/busybox:1", &[]).unwrap();
        let hosts = registry::hosts(&node, protection, ELSEWHERE);
        node.write_hosts(ELSEWHERE, &hosts).unwrap();
        let config = format!(
            "Port 8888\nListen 127.0.0.1\nLogFile \"{}\"\nLogLevel Connect\nAllow 127.0.0.1\n\
             BasicAuth someone secret\nConnectPort 5000\n",
            node.dir().join("proxy.log").display()
        );
        let file = node.dir().join("tinyproxy.conf");
        fs::write(&file, config).unwrap();
        node.shell(&format!(
            "tinyproxy -d -c {} >/dev/null 2>&1 </dev/null &",
            file.display()
        ))
        .unwrap();
        let answers = format!("curl --silent --output /dev/null http://{PROXY}/");
        node.shell_until(&answers).await.unwrap();
        Self { node, protection }
    }

    /// What the proxy has passed on for a pull by a daemon with this environment.
    async fn pull(&mut self, environment: &[(&str, &str)]) -> (Result<(), Status>, String) {
        self.node.end_daemon(Signal::SIGTERM).unwrap();
        self.node.set_environment(environment);
        self.node.start_daemon().await.unwrap();
        let log = self.node.dir().join("proxy.log");
        let before = fs::read_to_string(&log).unwrap().len();
        let image = Some(cri::ImageSpec {
            image: format!("{ELSEWHERE}/tools/busybox:1"),
            ..Default::default()
        });
        let auth = (self.protection == Protection::Tls).then(|| cri::AuthConfig {
            username: USER.into(),
            password: PASSWORD.into(),
            ..Default::default()
        });
        let mut images = self.node.images().await.unwrap();
        let request = cri::PullImageRequest {
            image: image.clone(),
            auth,
            ..Default::default()
        };
        let pulled = images.pull_image(request).await.map(drop);
        images
            .remove_image(cri::RemoveImageRequest { image })
            .await
            .unwrap();
        (
            pulled,
            fs::read_to_string(&log).unwrap()[before..].to_owned(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_without_tls_are_asked_by_the_proxy() {
    let mut site = Site::new(Protection::None).await;
    let proxy = format!("http://someone:secret@{PROXY}");
    let (pulled, log) = site.pull(&[("HTTP_PROXY", &proxy)]).await;
    pulled.unwrap();
    let asked = format!("GET http://{ELSEWHERE}/v2/tools/busybox/manifests/1");
    assert!(log.contains(&asked), "{log}");

    for environment in [
        &[("HTTPS_PROXY", proxy.as_str())][..],
        &[
            ("http_proxy", &proxy),
            ("no_proxy", "example.com,192.0.2.0/24"),
        ],
    ] {
        let (pulled, log) = site.pull(environment).await;
        pulled.unwrap();
        assert!(!log.contains("busybox"), "{environment:?}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_with_tls_are_reached_through_a_tunnel() {
    let mut site = Site::new(Protection::Tls).await;
    let proxy = format!("http://someone:secret@{PROXY}");
    let (pulled, log) = site.pull(&[("https_proxy", &proxy)]).await;
    pulled.unwrap();
    assert!(log.contains(&format!("CONNECT {ELSEWHERE}")), "{log}");
    assert!(!log.contains("busybox"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_or_is_down_is_named() {
    let mut site = Site::new(Protection::Tls).await;
    for (proxy, words) in [
        (format!("http://someone:wrong@{PROXY}"), "check its rules"),
        ("http://someone:wrong@127.0.0.1:8889".into(), "refused"),
        ("https://someone:wrong@127.0.0.1:8889".into(), "scheme http"),
    ] {
        let (pulled, _) = site.pull(&[("ALL_PROXY", &proxy)]).await;
        let error = pulled.unwrap_err();
        assert_eq!(error.code(), Code::Unknown, "{error}");
        let text = error.message();
        let named = proxy.replace("someone:wrong@", "");
        assert!(text.starts_with("RegistryUnavailable: "), "{text}");
        assert!(text.contains(&named) && text.contains(words), "{text}");
        assert!(!site.node.log().contains("wrong"), "a password was logged");
    }
}
