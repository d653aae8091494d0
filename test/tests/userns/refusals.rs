//! What is refused, and what is not.

use corten_proto::cri::{self, MountPropagation, NamespaceMode};
use corten_test::{image, node::Node, pod};
use tonic::Code;

use crate::site::{LENGTH, ROOT, Site, ids, mapped, options, owner, told, users, with_users};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_namespace_cannot_be_is_told_by_field() {
    let mut site = Site::new().await;
    let field = "config.linux.security_context.namespace_options.userns_options";
    let change = |change: fn(&mut cri::UserNamespace)| {
        let mut asked = users();
        change(&mut asked);
        asked
    };
    let cases = [
        (change(|users| users.uids.push(ids(65_536, 7, 1))), "uids"),
        (change(|users| users.gids.clear()), "gids"),
        (
            change(|users| users.uids[0].container_id = 1),
            "uids[0].container_id",
        ),
        (change(|users| users.gids[0].length = 0), "gids[0].length"),
        (
            change(|users| users.gids[0].host_id = u32::MAX),
            "gids[0].length",
        ),
        (
            change(|users| users.mode = NamespaceMode::Container.into()),
            "mode",
        ),
        (
            change(|users| users.mode = NamespaceMode::Target.into()),
            "mode",
        ),
        (
            change(|users| users.mode = NamespaceMode::Node.into()),
            "uids",
        ),
    ];
    for (asked, name) in cases {
        let mut config = pod::pod("bad");
        options(&mut config).userns_options = Some(asked);
        let (code, text) = told(&pod::run_pod(&mut site.runtime, &config).await.unwrap_err());
        assert_eq!(code, Code::InvalidArgument, "{text}");
        assert!(text.contains(&format!("{field}.{name}")), "{name}: {text}");
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_have_the_users_of_their_pod() {
    let mut site = Site::new().await;
    let dir = site.node.dir().to_owned();
    let refused = |change: &dyn Fn(&mut cri::ContainerConfig)| {
        let mut config = pod::container("bad", "sleep 1");
        change(&mut config);
        config
    };
    let other = cri::UserNamespace {
        uids: vec![ids(0, 7, 7)],
        ..users()
    };
    let cases = [
        (
            refused(&|config| {
                let options = pod::security(config).namespace_options.as_mut().unwrap();
                options.userns_options = Some(other.clone());
            }),
            "namespace_options.userns_options",
        ),
        (
            refused(&|config| {
                config.mounts = vec![cri::Mount {
                    gid_mappings: vec![ids(0, 7, 7)],
                    ..mapped(&dir, "/x")
                }];
            }),
            "config.mounts[0].gidMappings",
        ),
        (
            refused(&|config| {
                config.mounts = vec![cri::Mount {
                    propagation: MountPropagation::PropagationBidirectional.into(),
                    ..pod::mount(&dir, "/x")
                }];
            }),
            "config.mounts[0].propagation",
        ),
    ];
    for (config, name) in cases {
        let (code, text) = site.create_fails(&config).await;
        assert_eq!(code, Code::InvalidArgument, "{text}");
        assert!(text.contains(name), "{name}: {text}");
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sysctl_that_the_kernel_lacks_is_told_by_field() {
    let mut site = Site::new().await;
    let mut config = with_users(pod::pod("sysctl"));
    let sysctls = &mut config.linux.as_mut().unwrap().sysctls;
    sysctls.insert("net.ipv4/x".into(), "1".into());
    let (code, text) = told(&pod::run_pod(&mut site.runtime, &config).await.unwrap_err());
    assert_eq!(code, Code::InvalidArgument, "{text}");
    let field = "config.linux.sysctls[\"net.ipv4/x\"]: ";
    assert!(text.starts_with(field), "{text}");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_groups_may_be_mapped_differently() {
    let mut site = Site::new().await;
    let mut config = with_users(pod::pod("differ"));
    let users = options(&mut config).userns_options.as_mut().unwrap();
    users.gids = vec![ids(0, ROOT + LENGTH, 1000)];
    let other = pod::run_pod(&mut site.runtime, &config).await.unwrap();
    let id = pod::run(
        &mut site.runtime,
        &other,
        &pod::container("c", "sleep 1000"),
    )
    .await
    .unwrap();
    site.output(&id, "touch /made").await;
    let made = site
        .node
        .root()
        .join("containers")
        .join(&id)
        .join("upper/made");
    assert_eq!(owner(&made), (ROOT, ROOT + LENGTH));
    pod::remove_pod(&mut site.runtime, &other).await.unwrap();
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_without_a_user_namespace_cannot_be_mapped() {
    let node = Node::start().await.unwrap();
    image::load_busybox(&node).await.unwrap();
    let mut runtime = node.runtime().await.unwrap();
    let pod = pod::run_pod(&mut runtime, &pod::host_network_pod("plain"))
        .await
        .unwrap();
    let mut config = pod::container("mapped", "sleep 1");
    config.mounts = vec![mapped(node.dir(), "/x")];
    let (code, text) = told(&pod::create(&mut runtime, &pod, &config).await.unwrap_err());
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("config.mounts[0].uidMappings"), "{text}");
    pod::remove_pod(&mut runtime, &pod).await.unwrap();
}
