//! The ids of a pod's user namespace: what is root inside is another user on the host.

use corten_proto::shim::{IdMapping, Identity, Plan};
use corten_sys::{caps, prctl};
use nix::unistd::{setfsgid, setfsuid};
use rustix::{
    fs::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::failure::{Doing, Result, invalid};

/// From ids of the container to those of the host. Without a user namespace they are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    maps: Option<(Vec<IdMapping>, Vec<IdMapping>)>,
}

impl Ids {
    pub(super) fn of(plan: &Plan) -> Self {
        let maps = plan.user_namespace.as_ref();
        Self {
            maps: maps.map(|maps| (maps.uids.clone(), maps.gids.clone())),
        }
    }

    /// Whether there is a user namespace.
    pub(super) fn are_mapped(&self) -> bool {
        self.maps.is_some()
    }

    /// The host's number of a user, if it has one.
    fn uid(&self, uid: u32) -> Option<u32> {
        self.maps
            .as_ref()
            .map_or(Some(uid), |(uids, _)| map(uids, uid))
    }

    fn gid(&self, gid: u32) -> Option<u32> {
        self.maps
            .as_ref()
            .map_or(Some(gid), |(_, gids)| map(gids, gid))
    }

    /// The host's numbers for somebody in the container.
    pub(super) fn owner(&self, uid: u32, gid: u32) -> Result<(Uid, Gid)> {
        let missing = |kind, id| {
            invalid(
                "look up user",
                id,
                format!("the pod's user namespace has no such {kind}"),
            )
        };
        let host = (
            self.uid(uid).ok_or_else(|| missing("user", uid))?,
            self.gid(gid).ok_or_else(|| missing("group", gid))?,
        );
        Ok((Uid::from_raw(host.0), Gid::from_raw(host.1)))
    }

    /// As [`Self::owner`], with root for who has no number on the host.
    pub(super) fn owner_or_root(&self, uid: u32, gid: u32) -> (u32, u32) {
        let or_root = |id: Option<u32>, root: Option<u32>| id.or(root).unwrap_or_default();
        (
            or_root(self.uid(uid), self.uid(0)),
            or_root(self.gid(gid), self.gid(0)),
        )
    }

    /// Refuses whom the container cannot have.
    pub(super) fn check(&self, identity: &Identity) -> Result<()> {
        let groups = identity.groups.iter().chain([&identity.gid]);
        for group in groups {
            self.owner(identity.uid, *group)?;
        }
        Ok(())
    }

    /// Files that are made from now on belong to the container's root; capabilities stay as they are.
    pub(super) fn make_files_as_root(&self) -> Result<()> {
        self.make_files_as(self.owner(0, 0)?)
    }

    /// Files that are made from now on belong to this owner, given as numbers of the host.
    pub(super) fn make_files_as(&self, (uid, gid): (Uid, Gid)) -> Result<()> {
        setfsgid(gid.as_raw().into());
        setfsuid(uid.as_raw().into());
        let sets = caps::get().doing("capget", "own capabilities")?;
        let all = caps::Sets {
            effective: sets.permitted,
            ..sets
        };
        caps::set(all).doing("capset", "own capabilities")
    }
}

/// One mapping is all that a pod may have, but nothing here depends on it.
fn map(maps: &[IdMapping], id: u32) -> Option<u32> {
    maps.iter().find_map(|map| {
        let offset = id.checked_sub(map.inside)?;
        (offset < map.length).then(|| map.outside.checked_add(offset))?
    })
}

/// Takes on the ids of root in a user namespace that was just entered: until then this is nobody there.
pub(super) fn become_root() -> Result<()> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_groups(&[]).doing("setgroups", "none")?;
    set_thread_res_gid(gid, gid, gid).doing("setresgid", 0)?;
    set_thread_res_uid(uid, uid, uid).doing("setresuid", 0)?;
    // A change of ids makes a process dumpable again where the host says so.
    prctl::set_undumpable().doing("prctl", "PR_SET_DUMPABLE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(inside: u32, outside: u32, length: u32) -> Ids {
        let map = IdMapping {
            inside,
            outside,
            length,
        };
        Ids {
            maps: Some((vec![map], vec![map])),
        }
    }

    #[test]
    fn ids_are_mapped_up_to_the_last() {
        let ids = ids(0, 100_000, 65_536);
        assert_eq!(ids.uid(0), Some(100_000));
        assert_eq!(ids.gid(65_535), Some(165_535));
        assert_eq!(ids.uid(65_536), None);
        assert_eq!(Ids::default().uid(7), Some(7));
    }

    #[test]
    fn whoever_has_no_number_on_the_host_is_refused() {
        let identity = Identity {
            uid: 1,
            gid: 2,
            groups: vec![2, 10],
        };
        assert!(ids(0, 1000, 11).check(&identity).is_ok());
        let refused = ids(0, 1000, 10).check(&identity).unwrap_err();
        assert_eq!(refused.subject, "10");
    }
}
