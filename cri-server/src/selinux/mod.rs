//! SELinux on this host: which levels pods have, which labels the policy knows, and the labels of files of ours.

mod layers;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use corten_proto::shim::Plan;
use rustix::{
    fs::{XattrFlags, lsetxattr},
    rand::{GetRandomFlags, getrandom},
};

pub(crate) use self::layers::label as label_layers;
use crate::{
    blocking::blocking,
    error::{At, Error, Result},
    spec,
};

/// Takes a label, and refuses one that the policy does not know (security_check_context(3)).
const CONTEXT: &str = "/sys/fs/selinux/context";
const ATTRIBUTE: &str = "security.selinux";
/// There are half a million pairs of categories.
const TRIES: u32 = 1000;

/// Which pod, by id, has which level.
#[derive(Debug, Default)]
pub(crate) struct Levels(Mutex<HashMap<String, String>>);

impl Levels {
    /// Gives the pod a level that no other pod has.
    pub(crate) fn allocate(&self, pod: &str) -> Result<String> {
        let failed = |source| Error::Io {
            doing: "choose an SELinux level for the pod".into(),
            source,
        };
        for _ in 0..TRIES {
            let mut bytes = [0; 4];
            getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|errno| failed(errno.into()))?;
            let level = spec::selinux_pair(u32::from_ne_bytes(bytes));
            let mut levels = self.lock();
            if levels.values().all(|taken| *taken != level) {
                levels.insert(pod.to_owned(), level.clone());
                return Ok(level);
            }
        }
        Err(failed(io::Error::other("nearly all are taken")))
    }

    /// Keeps this level for the pod, which it may share with others: it has named it, or has it from an earlier daemon.
    pub(crate) fn reserve(&self, pod: &str, level: &str) {
        self.lock().insert(pod.to_owned(), level.to_owned());
    }

    /// Takes the pod's level back.
    pub(crate) fn release(&self, pod: &str) {
        self.lock().remove(pod);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That the host's policy knows the labels of a planned container.
///
/// # Errors
/// [`Error::Invalid`] with the label.
pub(crate) async fn check(plan: &Plan) -> Result<()> {
    if plan.mount_label.is_empty() {
        return Ok(());
    }
    let process = plan.process.as_ref();
    let process = process.map(|process| process.selinux_label.clone());
    let labels = [process.unwrap_or_default(), plan.mount_label.clone()];
    blocking(move || {
        for label in &labels {
            is_known(label).map_err(|error| {
                let reason = format!(
                    "the host's SELinux policy refuses the label {label} ({error}): name another, install the policy for containers, or turn labels off (container.selinux)"
                );
                Error::invalid("config.linux.security_context.selinux_options", reason)
            })?;
        }
        Ok(())
    })
    .await
}

fn is_known(label: &str) -> io::Result<()> {
    // As it is: O_CREAT would be checked as well.
    let mut file = File::options().write(true).open(CONTEXT)?;
    file.write_all(label.as_bytes())
}

/// Gives a file of ours a label. A symlink is not followed.
pub(crate) fn set_label(path: &Path, label: &str) -> Result<()> {
    let set = lsetxattr(path, ATTRIBUTE, label.as_bytes(), XattrFlags::empty());
    set.at(&format!("give the label {label} to"), path)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_pods_are_given_one_level() {
        let levels = Levels::default();
        let ids: Vec<_> = (0..2000).map(|number| number.to_string()).collect();
        let all: HashSet<_> = ids.iter().map(|id| levels.allocate(id).unwrap()).collect();
        assert_eq!(all.len(), ids.len());
        for id in &ids {
            levels.release(id);
        }
        assert!(levels.lock().is_empty());
    }

    #[test]
    fn a_level_is_kept_as_long_as_one_pod_has_it() {
        let levels = Levels::default();
        levels.reserve("a", "s0:c1,c2");
        levels.reserve("b", "s0:c1,c2");
        // Undoing may be repeated.
        levels.release("a");
        levels.release("a");
        assert!(levels.lock().values().any(|level| level == "s0:c1,c2"));
        levels.release("b");
        assert!(levels.lock().is_empty());
    }
}
