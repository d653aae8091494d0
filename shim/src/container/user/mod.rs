//! The user of a container's processes, as the image's /etc/passwd and /etc/group have it.
//!
//! Both files are the image's: they are found inside the root, are opened only where they are regular, and are read up to a
//! limit.

mod database;

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::Path,
};

use corten_proto::shim::{self, Identity};
use corten_sys::{open::Descriptors, root::Root};
use nix::libc;
use rustix::fs::OFlags;

use self::database::Entry;
use crate::failure::{Doing, Result, invalid};

/// Bytes. A file with 20,000 users has one of 1.5 MB.
const MAX_FILE: u64 = 4 << 20;
/// Longest home directory, bytes (PATH_MAX).
const MAX_HOME: usize = 4096;
/// Above are numbers that some system calls take for an error or for "no change".
const MAX_ID: u32 = i32::MAX.cast_unsigned();
/// A quarter of what setgroups(2) takes, so that the report of them fits into a message.
const MAX_GROUPS: usize = 16384;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Who a process is, and where it is at home.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct User {
    pub(super) identity: Identity,
    pub(super) home: Vec<u8>,
}

/// Looks up the user that `wanted` names in the image. `descriptors` are of this process.
pub(super) fn look_up(root: &Root, descriptors: &Descriptors, wanted: &shim::User) -> Result<User> {
    let read = |path| read(root, descriptors, path);
    select(wanted, &read(PASSWD)?, || read(GROUP))
}

/// The rule: a number is an id also where the image has a user of that name, or an image could make a user that is not root
/// out of root.
fn select(wanted: &shim::User, passwd: &[u8], group: impl Fn() -> Result<Vec<u8>>) -> Result<User> {
    let (name, group_name) = match wanted.spec.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (wanted.spec.as_str(), None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let (uid, entry) = match number(name)? {
        Some(uid) => (uid, database::user_by_id(passwd, uid)),
        None => {
            let entry = database::user_by_name(passwd, name.as_bytes()).ok_or_else(|| {
                invalid(
                    "look up user",
                    name,
                    "the image's /etc/passwd has no user of this name",
                )
            })?;
            (entry.uid, Some(entry))
        }
    };
    let names_groups = entry.as_ref().is_some_and(|_| !wanted.strict_groups);
    let needs_file = names_groups
        || group_name.is_some_and(|name| number(name).is_ok_and(|number| number.is_none()));
    let groups_file = if needs_file { group()? } else { Vec::new() };
    let gid = match (wanted.gid, group_name) {
        (Some(gid), _) => gid,
        (None, Some(name)) => group_id(&groups_file, name)?,
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = wanted.supplemental_groups.clone();
    groups.push(gid);
    if let Some(entry) = entry.as_ref().filter(|_| names_groups) {
        groups.extend(database::groups_of(&groups_file, entry.name));
    }
    groups.sort_unstable();
    groups.dedup();
    check(uid, gid, &groups)?;
    Ok(User {
        identity: Identity { uid, gid, groups },
        home: home(entry.as_ref()),
    })
}

fn home(entry: Option<&Entry<'_>>) -> Vec<u8> {
    let home = entry
        .map(|entry| entry.home)
        .filter(|home| !home.is_empty() && home.len() <= MAX_HOME);
    home.unwrap_or(b"/").to_vec()
}

fn group_id(file: &[u8], name: &str) -> Result<u32> {
    match number(name)? {
        Some(gid) => Ok(gid),
        None => database::group_by_name(file, name.as_bytes()).ok_or_else(|| {
            invalid(
                "look up group",
                name,
                "the image's /etc/group has no group of this name",
            )
        }),
    }
}

fn check(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    match [uid, gid].iter().chain(groups).find(|id| **id > MAX_ID) {
        Some(id) => Err(invalid("look up user", id, format!("ids go to {MAX_ID}"))),
        None if groups.len() > MAX_GROUPS => Err(invalid(
            "look up user",
            uid,
            format!("more than {MAX_GROUPS} groups"),
        )),
        None => Ok(()),
    }
}

/// `None` is a name.
fn number(text: &str) -> Result<Option<u32>> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(invalid("look up user", text, format!("ids go to {MAX_ID}"))),
    }
}

/// A file of the image; one that is not there is empty.
fn read(root: &Root, descriptors: &Descriptors, path: &str) -> Result<Vec<u8>> {
    let place = match root.locate(Path::new(path)) {
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        result => result.doing("find the image's", path)?,
    };
    let file = descriptors
        .open_file(place.as_fd(), OFlags::RDONLY)
        .doing("open the image's", path)?
        .ok_or_else(|| invalid("read the image's", path, "it is not a file"))?;
    let mut text = Vec::new();
    File::from(file)
        .take(MAX_FILE + 1)
        .read_to_end(&mut text)
        .doing("read the image's", path)?;
    if text.len() as u64 > MAX_FILE {
        return Err(invalid(
            "read the image's",
            path,
            format!("it has more than {MAX_FILE} bytes"),
        ));
    }
    Ok(text)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &[u8] = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/usr/sbin:\n1234:x:0:0::/evil:\nweb:x:33:44::/www:\n";
    const GROUPS: &[u8] =
        b"root:x:0:\nwheel:x:10:root\ndaemon:x:1:\nwww:x:44:\nlogs:x:50:sync,web\n";

    fn user(spec: &str) -> shim::User {
        shim::User {
            spec: spec.into(),
            ..shim::User::default()
        }
    }

    #[track_caller]
    fn check(wanted: &shim::User, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let found = select(wanted, USERS, || Ok(GROUPS.to_vec())).unwrap();
        let identity = Identity {
            uid,
            gid,
            groups: groups.to_vec(),
        };
        assert_eq!(
            found,
            User {
                identity,
                home: home.into()
            }
        );
    }

    #[test]
    fn users_are_found_as_containerd_finds_them() {
        check(&user(""), 0, 0, &[0, 10], "/root");
        check(&user("root"), 0, 0, &[0, 10], "/root");
        check(&user("1234"), 1234, 0, &[0], "/");
        check(&user("1234:1234"), 1234, 1234, &[1234], "/");
        check(&user("daemon"), 1, 1, &[1], "/usr/sbin");
        check(&user("33"), 33, 44, &[44, 50], "/www");
        check(&user("web:logs"), 33, 50, &[50], "/www");
        check(&user("5:www"), 5, 44, &[44], "/");
        let more = shim::User {
            supplemental_groups: vec![1234, 1],
            ..user("")
        };
        check(&more, 0, 0, &[0, 1, 10, 1234], "/root");
    }

    #[test]
    fn a_strict_list_and_a_gid_win() {
        let strict = shim::User {
            supplemental_groups: vec![7],
            strict_groups: true,
            ..user("web")
        };
        check(&strict, 33, 44, &[7, 44], "/www");
        check(
            &shim::User {
                gid: Some(99),
                ..user("web")
            },
            33,
            99,
            &[50, 99],
            "/www",
        );
    }

    #[track_caller]
    fn refused(spec: &str, subject: &str) {
        let failure = select(&user(spec), USERS, || Ok(GROUPS.to_vec())).unwrap_err();
        assert_eq!(failure.subject, subject);
        assert!(!failure.hint.is_empty());
    }

    #[test]
    fn unknown_names_and_ids_that_overflow_are_refused() {
        refused("nobody", "nobody");
        refused("root:nogroup", "nogroup");
        refused("2147483648", "2147483648");
        refused("99999999999", "99999999999");
        refused("0:4294967296", "4294967296");
    }
}
