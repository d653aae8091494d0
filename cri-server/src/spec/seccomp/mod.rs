//! Seccomp filters: a profile in, an array of `struct sock_filter` for the shim out.
//!
//! libseccomp knows which name has which number on which architecture; the program is made here
//! ([`compile`]). Its own has three times the instructions, cannot name system calls newer than
//! itself, and answers those that came after the profile with EPERM, where programs expect ENOSYS
//! to try something older. Tests hold both against each other.

mod applies;
mod arch;
mod compile;
mod default_profile;
mod json;
mod lower;
mod profile;
mod program;
mod syscall;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::capabilities;
use applies::Here;

/// Largest profile that is taken, bytes.
pub(super) const MAX_PROFILE: u64 = 1 << 20;
/// More profiles than any node has; a client that makes up new ones only costs itself time.
const MAX_FILTERS: usize = 64;

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the seccomp profile is longer than {MAX_PROFILE} bytes")]
    TooLarge,
    #[error("the seccomp profile is not valid: {0}")]
    Json(#[source] serde_json::Error),
    #[error("the seccomp profile cannot be applied: {0}")]
    Unsupported(String),
    #[error("the seccomp profile makes a filter of {0} instructions; the kernel takes 4096")]
    TooLong(usize),
}

/// What the shim loads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// An array of `struct sock_filter`.
    pub(super) program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_*.
    pub(super) flags: u32,
}

/// The default profile for a process with this bounding set, in the OCI's JSON.
pub(super) fn runtime_default_json(capabilities: u64) -> Result<serde_json::Value, Error> {
    lower::lower(&default_profile::profile(capabilities))
}

/// A profile as the daemon reads it, so that an external runtime gets what a filter would be made of.
pub(super) fn profile_json(json: &[u8], capabilities: u64) -> Result<serde_json::Value, Error> {
    lower::lower(&read(json, capabilities)?)
}

/// What a profile says on this machine of a process with this bounding set.
fn read(json: &[u8], capabilities: u64) -> Result<profile::Profile, Error> {
    if u64::try_from(json.len()).is_ok_and(|length| length > MAX_PROFILE) {
        return Err(Error::TooLarge);
    }
    json::parse(json, &Here::with(capabilities)?)
}

/// Filters by what they were made from.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    filters: Mutex<HashMap<Key, Arc<Filter>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// The default profile, with those capabilities that it depends on.
    RuntimeDefault(u64),
    /// A profile's text, and a bounding set.
    Profile(Box<[u8]>, u64),
}

impl Filter {
    fn of(profile: &profile::Profile) -> Result<Self, Error> {
        Ok(Self {
            program: compile::compile(profile)?,
            flags: profile.flags,
        })
    }
}

impl Cache {
    /// Compiles what nearly all containers ask for, so that no pod waits for it.
    pub(super) fn warm(&self) -> Result<(), Error> {
        for capabilities in [capabilities::DEFAULT, 0] {
            self.runtime_default(capabilities)?;
        }
        Ok(())
    }

    /// The filter of the default profile for a process with this bounding set.
    pub(super) fn runtime_default(&self, capabilities: u64) -> Result<Arc<Filter>, Error> {
        let capabilities = capabilities & default_profile::capabilities();
        let compiled = || Filter::of(&default_profile::profile(capabilities));
        self.get_or_make(Key::RuntimeDefault(capabilities), compiled)
    }

    /// The filter of a profile in the OCI's or Docker's JSON for a process with this bounding set.
    pub(super) fn profile(&self, json: &[u8], capabilities: u64) -> Result<Arc<Filter>, Error> {
        let compiled = || Filter::of(&read(json, capabilities)?);
        self.get_or_make(Key::Profile(json.into(), capabilities), compiled)
    }

    /// Two callers may both compile; neither waits for the other.
    fn get_or_make(
        &self,
        key: Key,
        make: impl FnOnce() -> Result<Filter, Error>,
    ) -> Result<Arc<Filter>, Error> {
        if let Some(filter) = self.lock().get(&key) {
            return Ok(filter.clone());
        }
        let filter = Arc::new(make()?);
        let mut filters = self.lock();
        if filters.len() >= MAX_FILTERS {
            filters.retain(|key, _| matches!(key, Key::RuntimeDefault(_)));
        }
        filters.insert(key, filter.clone());
        Ok(filter)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Filter>>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod facts;
#[cfg(test)]
mod simulate;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_requests_share_a_filter() {
        let cache = Cache::default();
        cache.warm().unwrap();
        let first = cache.runtime_default(capabilities::DEFAULT).unwrap();
        let other = cache
            .runtime_default(capabilities::DEFAULT | capabilities::mask(&["NET_ADMIN"]))
            .unwrap();
        assert!(
            Arc::ptr_eq(&first, &other),
            "NET_ADMIN opens no system call"
        );
        let profile = |capabilities| {
            let json = br#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;
            cache.profile(json, capabilities).unwrap()
        };
        assert!(Arc::ptr_eq(&profile(1), &profile(1)));
        assert!(!Arc::ptr_eq(&profile(1), &profile(2)));
        assert_eq!(cache.lock().len(), 4);
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = Cache::default();
        for n in 0..200 {
            cache
                .profile(
                    format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": {n}}}"#)
                        .as_bytes(),
                    0,
                )
                .unwrap();
        }
        assert!(cache.lock().len() <= MAX_FILTERS);
        let long = vec![b' '; (1 << 20) + 1];
        assert!(matches!(cache.profile(&long, 0), Err(Error::TooLarge)));
    }
}
