//! Pod sandboxes: what is known of one, and its state.
//!
//! ```text
//!            run           stop, reboot          remove
//!   (none) ------> Ready --------------> NotReady ------> (none)
//! ```

pub(crate) mod files;
pub(crate) mod init;
pub(crate) mod namespaces;
pub(crate) mod remove;
pub(crate) mod run;
pub(crate) mod stop;
pub(crate) mod update;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use corten_proto::{cri, record};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use crate::{
    config::{Config, Handler},
    container::Container,
    context::Context,
    error::{Error, Result},
    stats::CpuSamples,
};

/// The handler of this name in the configuration.
pub(crate) fn handler(config: &Config, name: &str) -> Result<Handler> {
    config.handlers.get(name).ok_or_else(|| {
        let known: Vec<_> = config
            .handlers
            .names()
            .map(|name| format!("{name:?}"))
            .collect();
        let reason = format!(
            "{name:?} is not known: the configuration has {}",
            known.join(", ")
        );
        Error::invalid("runtime_handler", reason)
    })
}

/// A published pod. The record is as it was at its creation but for `stopped`.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) record: record::Pod,
    /// See [`name`].
    pub(crate) name: String,
    /// For the next figure of its CPU use.
    pub(crate) cpu_samples: CpuSamples,
    stopped: watch::Sender<bool>,
    /// Its record is gone.
    removed: AtomicBool,
    /// See [`Pod::share`].
    turn: Arc<RwLock<()>>,
    /// A later call has named the id, so the answer to RunPodSandbox has arrived.
    known: AtomicBool,
    /// Held while a process is put into the pod's scope.
    pub(crate) placing: tokio::sync::Mutex<()>,
}

impl Pod {
    pub(crate) fn new(record: record::Pod) -> Self {
        let config = record.config.as_ref();
        let name = config
            .and_then(|config| config.metadata.as_ref())
            .map(name)
            .unwrap_or_default();
        let (stopped, _) = watch::channel(record.stopped);
        Self {
            record,
            name,
            cpu_samples: CpuSamples::default(),
            stopped,
            removed: AtomicBool::new(false),
            turn: Arc::default(),
            known: AtomicBool::new(false),
            placing: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn config(&self) -> &cri::PodSandboxConfig {
        static NONE: std::sync::OnceLock<cri::PodSandboxConfig> = std::sync::OnceLock::new();
        self.record
            .config
            .as_ref()
            .unwrap_or_else(|| NONE.get_or_init(Default::default))
    }

    pub(crate) fn is_ready(&self) -> bool {
        !*self.stopped.borrow()
    }

    /// Waits until it is to be stopped.
    pub(crate) async fn stopped(&self) {
        // The sender is ours, so that the channel is never closed.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// Held by what is done to one of its containers, whatever is done to the others meanwhile. Once a call waits for
    /// [`Self::have_alone`], no further call gets in before.
    pub(crate) async fn share(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.turn).read_owned().await
    }

    /// [`Self::share`] without waiting: `None` where a call has the pod alone or waits for that.
    pub(crate) fn try_share(&self) -> Option<OwnedRwLockReadGuard<()>> {
        Arc::clone(&self.turn).try_read_owned().ok()
    }

    /// Held by the end of its stop and by its removal: nothing is done to a container of it meanwhile.
    pub(crate) async fn have_alone(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.turn).write_owned().await
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(crate) fn set_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    pub(crate) fn check_ready(&self) -> Result<()> {
        if self.is_ready() {
            return Ok(());
        }
        Err(self.not_ready())
    }

    pub(crate) fn not_ready(&self) -> Error {
        Error::State {
            subject: format!("pod sandbox {}", self.record.id),
            state: "not ready",
            need: "it was stopped; make a new one",
        }
    }

    /// Marks the pod as stopped: no container is added, and one that is being made is given up.
    pub(crate) fn set_stopped(&self) {
        self.stopped.send_replace(true);
    }

    pub(crate) fn set_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// The record as it is to be written now.
    pub(crate) fn to_record(&self) -> record::Pod {
        record::Pod {
            stopped: !self.is_ready(),
            ..self.record.clone()
        }
    }

    pub(crate) fn state(&self) -> cri::PodSandboxState {
        if self.is_ready() {
            cri::PodSandboxState::SandboxReady
        } else {
            cri::PodSandboxState::SandboxNotready
        }
    }

    /// The parent cgroup where it is this pod's alone: its name bears the pod's uid, as the kubelet names them
    /// (`pod<uid>`, and with systemd `kubepods-pod<uid>.slice`, with `_` for `-`). Any other may hold more than this pod, save for its scope.
    pub(crate) fn own_cgroup(&self) -> Option<&str> {
        let scope = self.record.scope.as_ref();
        let scope = scope.map(|scope| scope.cgroup.as_str());
        let parent = match scope {
            Some(scope) => scope.rsplit_once('/')?.0,
            None => self.record.cgroup_parent.as_str(),
        };
        let uid = self
            .config()
            .metadata
            .as_ref()
            .map(|metadata| &metadata.uid)?;
        let name = parent.rsplit('/').next()?;
        let slice = name
            .strip_suffix(".slice")
            .map(|slice| slice.rsplit('-').next());
        let is_own = match slice {
            Some(last) => last == Some(&format!("pod{}", uid.replace('-', "_"))),
            None => name == format!("pod{uid}"),
        };
        (is_own && !uid.is_empty()).then_some(parent).or(scope)
    }

    /// Where the pod's network namespace is pinned; `None` on the host's network.
    pub(crate) fn netns(&self) -> Option<PathBuf> {
        self.record
            .resources
            .iter()
            .find_map(|resource| match &resource.kind {
                Some(record::resource::Kind::Network(network)) => {
                    Some(PathBuf::from(&network.netns))
                }
                _ => None,
            })
    }
}

/// [`Pod::share`] of the pod that `container` is in; nothing where there is no such pod any more.
pub(crate) async fn share(cx: &Context, container: &Container) -> Option<OwnedRwLockReadGuard<()>> {
    let pod = cx.store.pod(&container.record.pod_id).ok()?;
    Some(pod.share().await)
}

/// What tells one pod from another: namespace, name, uid and attempt (CRI, PodSandboxMetadata).
pub(crate) fn name(metadata: &cri::PodSandboxMetadata) -> String {
    format!(
        "{}/{} uid {} attempt {}",
        metadata.namespace, metadata.name, metadata.uid, metadata.attempt
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_that_bears_the_uid_is_the_pods_own() {
        let own = |uid: &str, parent: &str| {
            let metadata = cri::PodSandboxMetadata {
                uid: uid.into(),
                ..Default::default()
            };
            let config = cri::PodSandboxConfig {
                metadata: Some(metadata),
                ..Default::default()
            };
            let record = record::Pod {
                config: Some(config),
                cgroup_parent: parent.into(),
                ..Default::default()
            };
            Pod::new(record).own_cgroup().is_some()
        };
        assert!(own("a-b", "/kubepods/burstable/poda-b"));
        assert!(own(
            "a-b",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-poda_b.slice"
        ));
        for parent in [
            "/kubepods/burstable/poda-c",
            "/kubepods",
            "/test.slice",
            "/kubepods-poda-b.slice",
            "/poda-b/x",
            "/",
        ] {
            assert!(!own("a-b", parent), "{parent}");
        }
        assert!(!own("", "/kubepods/pod"));
    }

    #[test]
    fn attempts_have_different_names() {
        let first = cri::PodSandboxMetadata {
            name: "a".into(),
            ..Default::default()
        };
        let second = cri::PodSandboxMetadata {
            attempt: 1,
            ..first.clone()
        };
        assert_ne!(name(&first), name(&second));
    }
}
