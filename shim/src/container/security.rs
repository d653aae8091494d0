//! What a process may do: limits, user, capabilities, seccomp. What the host does not allow us to give is clamped, and told.

use std::{fs, io};

use corten_proto::shim::{Capabilities, Identity, Process, Rlimit};
use corten_sys::{
    caps::{self, Sets},
    prctl, process, seccomp,
};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::filter;
use crate::failure::{Doing, Result};

const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;
/// Capability numbers fit into 64 bits; the kernel says where its own end.
const MAX_CAPABILITIES: u8 = 64;
/// By number, without CAP_ (include/uapi/linux/capability.h).
const NAMES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE \
    SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL \
    SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// Sets resource limits; without CAP_SYS_RESOURCE a hard limit cannot be raised.
pub(super) fn set_rlimits(limits: &[Rlimit], warnings: &mut Vec<String>) -> Result<()> {
    for Rlimit {
        resource,
        soft,
        hard,
    } in limits
    {
        let subject = || format!("{resource} to {soft}:{hard}");
        match process::set_rlimit(*resource, *soft, *hard) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let (_, most) = process::rlimit(*resource).doing("getrlimit", resource)?;
                let (hard, soft) = ((*hard).min(most), (*soft).min(most));
                process::set_rlimit(*resource, soft, hard).doing("setrlimit", subject())?;
                warnings.push(format!(
                    "resource limit {} stays at {most}: the host's own",
                    subject()
                ));
            }
            result => result.doing("setrlimit", subject())?,
        }
    }
    Ok(())
}

/// Sets how readily the kernel kills the process for want of memory; has to see the host's /proc.
/// `process` is its name there.
pub(super) fn set_oom_score_adj(
    process: &str,
    wanted: i32,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let path = format!("/proc/{process}/oom_score_adj");
    let set = |value: i32| fs::write(&path, value.to_string());
    match set(wanted) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // Below what we were started with. 0 is likely possible, and what we have now is.
            let value = if wanted < 0 && set(0).is_ok() {
                "0".into()
            } else {
                fs::read_to_string(&path).unwrap_or_default()
            };
            warnings.push(format!(
                "oom_score_adj {wanted} is not allowed on this host: it is {}",
                value.trim()
            ));
            Ok(())
        }
        result => result.doing("write", format!("{wanted} to {path}")),
    }
}

/// What [`set_rlimits`] would come to, for another program to set.
pub(super) fn possible_rlimits(
    limits: &[Rlimit],
    warnings: &mut Vec<String>,
) -> Result<Vec<Rlimit>> {
    let own = caps::get().doing("capget", "own capabilities")?.permitted;
    if own & SYS_RESOURCE != 0 {
        return Ok(limits.to_vec());
    }
    let possible = |limit: &Rlimit| {
        let (_, most) = process::rlimit(limit.resource).doing("getrlimit", limit.resource)?;
        if limit.hard > most {
            warnings.push(format!(
                "resource limit {} stays at {most}: the host's own",
                limit.resource
            ));
        }
        Ok(Rlimit {
            resource: limit.resource,
            soft: limit.soft.min(most),
            hard: limit.hard.min(most),
        })
    };
    limits.iter().map(possible).collect()
}

/// What [`set_oom_score_adj`] would come to for this process, which keeps its own.
pub(super) fn possible_oom_score_adj(wanted: i32, warnings: &mut Vec<String>) -> Result<i32> {
    let path = "/proc/self/oom_score_adj";
    let read = || fs::read_to_string(path).doing("read", path);
    let before = read()?;
    set_oom_score_adj("self", wanted, warnings)?;
    let possible = read()?;
    fs::write(path, before.trim()).doing("write", path)?;
    Ok(possible.trim().parse().unwrap_or_default())
}

/// The capability sets that a process gets: those that are wanted and that we have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Privileges {
    sets: Sets,
    ambient: u64,
    bounding: u64,
    /// Ours.
    own: u64,
}

impl Privileges {
    pub(super) fn new(wanted: &Capabilities, warnings: &mut Vec<String>) -> Result<Self> {
        let own = caps::get().doing("capget", "own capabilities")?.permitted;
        let missing = (wanted.permitted | wanted.bounding) & !own;
        if missing != 0 {
            warnings.push(format!(
                "this host does not give us the capabilities {}",
                names(missing)
            ));
        }
        let sets = Sets {
            effective: wanted.effective & own,
            permitted: wanted.permitted & own,
            inheritable: wanted.inheritable & own,
        };
        // The kernel asks for ambient ones to be in both of these.
        let ambient = wanted.ambient & sets.permitted & sets.inheritable;
        Ok(Self {
            sets,
            ambient,
            bounding: wanted.bounding,
            own,
        })
    }

    /// Takes on the user's ids, and keeps the capabilities that [`Self::give_up`] needs.
    pub(super) fn become_user(&self, identity: &Identity) -> Result<()> {
        self.drop_bounding()?;
        let groups: Vec<Gid> = identity
            .groups
            .iter()
            .map(|gid| Gid::from_raw(*gid))
            .collect();
        set_thread_groups(&groups).doing("setgroups", format!("{:?}", identity.groups))?;
        let gid = Gid::from_raw(identity.gid);
        set_thread_res_gid(gid, gid, gid).doing("setresgid", identity.gid)?;
        prctl::keep_capabilities(true).doing("prctl", "PR_SET_KEEPCAPS")?;
        let uid = Uid::from_raw(identity.uid);
        set_thread_res_uid(uid, uid, uid).doing("setresuid", identity.uid)?;
        prctl::keep_capabilities(false).doing("prctl", "PR_SET_KEEPCAPS")?;
        // A change of ids makes a process dumpable again where the host says so.
        prctl::set_undumpable().doing("prctl", "PR_SET_DUMPABLE")
    }

    fn drop_bounding(&self) -> Result<()> {
        for capability in (0..MAX_CAPABILITIES).filter(|number| self.bounding >> number & 1 == 0) {
            match prctl::drop_bounding(capability) {
                // The kernel has no such capability, nor any above it.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                result => result.doing("drop capability", names(1 << capability))?,
            }
        }
        Ok(())
    }

    /// Gives up what the process may not have, and loads its filter where that is possible now. What is returned is for
    /// [`Self::seal`], the last step before execve, in this process or in a sibling of it.
    ///
    /// Without no_new_privs a filter can only be loaded with CAP_SYS_ADMIN. So it comes before the capabilities go where it
    /// allows what is left to be done, or else that capability stays until then.
    pub(super) fn give_up(&self, process: &Process) -> Result<Unsealed> {
        let filter = &process.seccomp_filter;
        let needs_right = !filter.is_empty() && !process.no_new_privileges;
        let unsealed = Unsealed {
            filter: !filter.is_empty(),
            capabilities: if needs_right { SYS_ADMIN & self.own } else { 0 },
        };
        let unsealed = if needs_right && filter::allows_birth(filter) {
            let all = Sets {
                effective: self.own,
                permitted: self.own,
                inheritable: self.sets.inheritable,
            };
            caps::set(all).doing("capset", "for seccomp")?;
            load(process)?;
            Unsealed::default()
        } else {
            unsealed
        };
        let sets = Sets {
            effective: self.sets.effective | unsealed.capabilities,
            permitted: self.sets.permitted | unsealed.capabilities,
            inheritable: self.sets.inheritable,
        };
        caps::set(sets).doing("capset", names(sets.permitted))?;
        // What a service manager gave us is not the container's.
        prctl::clear_ambient().doing("prctl", "PR_CAP_AMBIENT_CLEAR_ALL")?;
        for capability in (0..MAX_CAPABILITIES).filter(|number| self.ambient >> number & 1 == 1) {
            prctl::raise_ambient(capability)
                .doing("raise ambient capability", names(1 << capability))?;
        }
        if process.no_new_privileges {
            prctl::set_no_new_privileges().doing("prctl", "PR_SET_NO_NEW_PRIVS")?;
        }
        Ok(unsealed)
    }

    /// Does what [`Self::give_up`] has left.
    pub(super) fn seal(&self, process: &Process, unsealed: Unsealed) -> Result<()> {
        if unsealed.filter {
            load(process)?;
        }
        if unsealed.capabilities != 0 {
            caps::set(self.sets).doing("capset", names(self.sets.permitted))?;
        }
        Ok(())
    }
}

/// What [`Privileges::seal`] has still to do: load the filter, give up these capabilities.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unsealed {
    filter: bool,
    capabilities: u64,
}

fn load(process: &Process) -> Result<()> {
    seccomp::load(&process.seccomp_filter, process.seccomp_flags)
        .doing("load", "the seccomp filter")
}

/// "NET_ADMIN, 41".
fn names(mask: u64) -> String {
    let mut names = NAMES.split_ascii_whitespace();
    let numbers = (0..MAX_CAPABILITIES).map(|number| (number, names.next()));
    let words: Vec<String> = numbers
        .filter(|(number, _)| mask >> number & 1 == 1)
        .map(|(number, name)| name.map_or_else(|| number.to_string(), str::to_owned))
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_names() {
        assert_eq!(
            names(1 | 1 << 21 | 1 << 40 | 1 << 41),
            "CHOWN, SYS_ADMIN, CHECKPOINT_RESTORE, 41"
        );
    }

    #[test]
    fn what_we_lack_is_clamped_and_told() {
        let mut warnings = Vec::new();
        let wanted = Capabilities {
            bounding: 1 << 63,
            permitted: 1 << 63,
            ambient: 1 << 63,
            ..Capabilities::default()
        };
        let privileges = Privileges::new(&wanted, &mut warnings).unwrap();
        assert_eq!((privileges.sets.permitted, privileges.ambient), (0, 0));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("63"), "{warnings:?}");
    }
}
