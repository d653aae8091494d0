//! Users and groups of images.

use std::fs;

use corten_proto::cri;
use corten_test::{image, pod};
use serde_json::json;
use tonic::Code;

use crate::site::{IMAGE, Site, container};

/// With lines that are wrong, line ends of Windows, a name that is there twice, and none at the end.
const PASSWD: &str = "# users\n+nis::::::\nroot:x:0:0:root:/root:/bin/sh\r\nmongo:x:101:65534::/home/mongo:/bin/sh\r\n\n\
                      1234:x:0:0::/evil:\n9223372036854775808:x:0:0::/evil:\nneg:x:-1:-1::/:\nshort:x:8\n\
                      app:x:1000:1001::/home/app:\napp:x:0:0::/evil:\nlast:x:9:9::/last:/bin/sh";
/// Whose first line is not root's.
const GROUP: &str = "mongo:x:102:mongo\r\nroot:x:0:\n1234:x:0:\nextra:x:2000:app,mongo\nmore:x:2001:app\nnogroup:x:65534:\n\
                     last:x:10:";

/// Groups and home directory of a process of the image's user, or why it cannot be made.
async fn identity(site: &mut Site, user: &str, has_files: bool) -> Result<String, tonic::Status> {
    image::load_changed(&site.node, IMAGE, |tree, config| {
        config["User"] = json!(user);
        for (name, text) in [("passwd", PASSWD), ("group", GROUP)] {
            match has_files {
                true => fs::write(tree.join("etc").join(name), text)?,
                false => fs::remove_file(tree.join("etc").join(name))?,
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    let mut config = container("user", "sleep 1000");
    config.metadata.as_mut().unwrap().name = format!("user-{user}-{has_files}");
    let id = site.try_run(&config).await?;
    let script = "awk '/^(Uid|Gid):/ { printf \"%s \", $2 } /^Groups:/ { $1 = $1; print substr($0, 9) }' /proc/1/status; \
                  tr '\\0' '\\n' </proc/1/environ | grep HOME";
    let seen = site.output(&id, script).await;
    site.remove(&id).await.unwrap();
    Ok(seen.replace('\n', " ").trim().to_owned())
}

/// containerd 11937: a group of the user's name was not among its groups where another is its first one.
/// moby 46917: the first line of /etc/group was taken for root's group.
/// cri-o 6159 (GHSA-rc4r-wh2q-q6c4): the first group was missing among the further ones, so that a file whose group may do
/// less than others was open to the process that left it.
///
/// Rule (initgroups(3)): all groups that have the user as a member, and the first one.
#[tokio::test(flavor = "multi_thread")]
async fn groups_are_those_that_have_the_user_and_its_first_one() {
    let mut site = Site::new().await;
    for (user, want) in [
        ("", "0 0 0 HOME=/root"),
        ("mongo", "101 65534 102 2000 65534 HOME=/home/mongo"),
        ("mongo:mongo", "101 102 102 2000 HOME=/home/mongo"),
        ("app", "1000 1001 1001 2000 2001 HOME=/home/app"),
        ("app:", "1000 1001 1001 2000 2001 HOME=/home/app"),
        ("1000:extra", "1000 2000 2000 2001 HOME=/home/app"),
        (":extra", "0 2000 2000 HOME=/root"),
        ("last:last", "9 10 10 HOME=/last"),
    ] {
        assert_eq!(
            identity(&mut site, user, true).await.unwrap(),
            want,
            "{user:?}"
        );
    }
}

/// runc 695 (moby 21436), moby/sys 221 (CVE-2026-46680): a number was looked up as a name, which an image gave to root.
///
/// Rule: what is all digits is an id, and one that is too large is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_never_a_name() {
    let mut site = Site::new().await;
    for (user, want) in [
        ("1234", "1234 0 0 HOME=/"),
        ("1234:1234", "1234 1234 1234 HOME=/"),
        ("0001000", "1000 1001 1001 2000 2001 HOME=/home/app"),
    ] {
        assert_eq!(
            identity(&mut site, user, true).await.unwrap(),
            want,
            "{user:?}"
        );
    }
    for user in [
        "9223372036854775808",
        "4294967296",
        "0:9223372036854775808",
        "-1",
        "neg",
        "short",
        "nis",
        " app",
        "app:nobody",
    ] {
        let refused = identity(&mut site, user, true).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{user:?}: {refused}");
    }
}

/// containerd/cri 176, runc 313, podman 1940: numbers of users and groups did not do without /etc/passwd and /etc/group, or
/// without an entry in them.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_need_no_files() {
    let mut site = Site::new().await;
    for (user, want) in [
        ("", "0 0 0 HOME=/"),
        ("1000", "1000 0 0 HOME=/"),
        ("1000:1000", "1000 1000 1000 HOME=/"),
    ] {
        assert_eq!(
            identity(&mut site, user, false).await.unwrap(),
            want,
            "{user:?}"
        );
    }
    assert_eq!(
        identity(&mut site, "5000:5000", true).await.unwrap(),
        "5000 5000 5000 HOME=/"
    );
    let refused = identity(&mut site, "app", false).await.unwrap_err();
    assert!(refused.message().contains("\"app\""), "{refused}");
    let mut config = container("groups", "sleep 1000");
    pod::security(&mut config).run_as_user = Some(cri::Int64Value { value: 7 });
    pod::security(&mut config).supplemental_groups = vec![70, 7000];
    let id = site.run(&config).await;
    assert_eq!(site.output(&id, "id -G").await, "0 70 7000\n");
}
