//! Containers: what is known of one, and its state.
//!
//! ```text
//!            create           start             exited           remove
//!   (none) ---------> Created ------> Running ---------> Exited ------> (none)
//!                        |                                 ^
//!                        +-- start failed, stopped, lost --+
//! ```

pub(crate) mod create;
pub(crate) mod exit;
mod external;
mod image_volumes;
pub(crate) mod remove;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod update;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};

use corten_image::LayerHold;
use corten_proto::{cri, record, shim::Exited};
use tokio::{sync::watch, time::timeout};

use crate::{
    context::Context,
    error::{Error, Result},
    limit::{Count, Share},
    record_file, shim,
    stats::{CpuSamples, Layer},
};

/// Between the end that the shim has seen and the one that it tells.
const END: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Created,
    /// Unix time in nanoseconds.
    Running {
        started_at: i64,
    },
    Exited {
        exit: Exited,
        reason: String,
    },
}

/// A published container. The record is as it was at its creation; what changes is in `state`.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: record::Container,
    /// See [`name`].
    pub(crate) name: String,
    state: watch::Sender<State>,
    /// On the host. Another one than at its creation where the start has made it (shim.proto, Started).
    init_pid: AtomicI32,
    /// Those that it has, after the last update.
    limits: Mutex<Option<cri::LinuxContainerResources>>,
    /// Held while the record is written: the last one has everything.
    saving: Mutex<()>,
    /// Held by a start, an update and a removal, which do not go side by side.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Whether its shim has been asked by this daemon, or has ended.
    settled: watch::Sender<bool>,
    /// See [`record::Container::shim_may_live`].
    shim_may_live: AtomicBool,
    /// `None` once the shim has ended.
    shim: Mutex<Option<Arc<shim::Client>>>,
    /// Commands that run in it, and clients that are attached to it.
    sessions: Count,
    /// For the next figure of its CPU use.
    pub(crate) cpu_samples: CpuSamples,
    /// The size of what it has written.
    pub(crate) layer: Layer,
    /// Keeps the layers of the root file system and of image volumes.
    _layers: Vec<LayerHold>,
    /// A later call has named the id, so the answer to CreateContainer has arrived.
    known: AtomicBool,
    /// Somebody waited for StartContainer's answer to the end.
    start_answered: AtomicBool,
}

impl Container {
    pub(crate) fn new(record: record::Container, state: State, layers: Vec<LayerHold>) -> Self {
        let config = record.config.as_ref();
        let name = config
            .and_then(|config| config.metadata.as_ref())
            .map(name)
            .unwrap_or_default();
        let (state, _) = watch::channel(state);
        let limits = record.limits.clone();
        let init_pid = AtomicI32::new(record.init_pid);
        let shim_may_live = AtomicBool::new(record.shim_may_live);
        Self {
            record,
            name,
            state,
            init_pid,
            limits: Mutex::new(limits),
            saving: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            settled: watch::channel(true).0,
            shim_may_live,
            shim: Mutex::new(None),
            sessions: Count::default(),
            cpu_samples: CpuSamples::default(),
            layer: Layer::default(),
            _layers: layers,
            known: AtomicBool::new(false),
            start_answered: AtomicBool::new(false),
        }
    }

    pub(crate) fn config(&self) -> &cri::ContainerConfig {
        static NONE: std::sync::OnceLock<cri::ContainerConfig> = std::sync::OnceLock::new();
        self.record
            .config
            .as_ref()
            .unwrap_or_else(|| NONE.get_or_init(Default::default))
    }

    /// Counts a command or an attached client until the result is dropped.
    pub(crate) fn begin_session(&self, limit: usize) -> Result<Share> {
        let what =
            "commands and attached clients in this container at once: see container.max_sessions";
        self.sessions.one(limit, what)
    }

    /// Whether its root or one of its volumes is of this image.
    pub(crate) fn uses_image(&self, id: &str) -> bool {
        let volumes = &self.record.image_volumes;
        self.record.image_id == id || volumes.iter().any(|volume| volume.image_id == id)
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn is_exited(&self) -> bool {
        matches!(*self.state.borrow(), State::Exited { .. })
    }

    /// Waits for the end of the container.
    pub(crate) async fn exited(&self) {
        // The sender is ours, so that the channel is never closed.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| matches!(state, State::Exited { .. }))
            .await;
    }

    /// Whether a call's failure came of the container's end, of which the shim is the first to know.
    pub(crate) async fn has_ended_before(&self, failure: &shim::Error) -> bool {
        failure.is_gone() && timeout(END, self.exited()).await.is_ok()
    }

    /// Takes over its end, and records it before any caller hears of it: what is removed then is not written to any more.
    /// False when it had ended before.
    pub(crate) fn end(&self, cx: &Context, exit: Exited, reason: String) -> bool {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_exited() {
            return false;
        }
        let state = State::Exited { exit, reason };
        if let Err(error) = self.write(cx, &state) {
            // The exit file is still there for the next start.
            tracing::warn!(container = %self.record.id, error = error.chain(), "the exit could not be recorded");
        }
        self.advance(state)
    }

    /// Marks it as not asked yet: until [`Self::set_settled`] no more is known of it than its record.
    pub(crate) fn set_unsettled(&self) {
        self.settled.send_replace(false);
    }

    pub(crate) fn set_settled(&self) {
        self.settled.send_replace(true);
    }

    /// Waits until its shim was asked, which takes time only after a start of the daemon.
    pub(crate) async fn settled(&self) {
        // The sender is ours, so that the channel is never closed.
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    pub(crate) fn set_shim_may_live(&self) {
        self.shim_may_live.store(true, Ordering::Relaxed);
    }

    pub(crate) fn shim_may_live(&self) -> bool {
        self.shim_may_live.load(Ordering::Relaxed)
    }

    /// Takes the next state, unless the container has exited: nothing comes after that. Returns whether it was taken.
    pub(crate) fn advance(&self, next: State) -> bool {
        self.state.send_if_modified(|state| {
            let may = !matches!(state, State::Exited { .. });
            if may {
                *state = next;
            }
            may
        })
    }

    /// The connection to the shim.
    pub(crate) fn shim(&self) -> Option<Arc<shim::Client>> {
        self.shim
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_shim(&self, client: Option<Arc<shim::Client>>) {
        *self.shim.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// The shim of a container that runs.
    pub(crate) fn running_shim(&self) -> Result<Arc<shim::Client>> {
        let state = match &*self.state.borrow() {
            State::Running { .. } => "running",
            State::Created => "created",
            State::Exited { .. } => "exited",
        };
        match self.shim() {
            Some(shim) if state == "running" => Ok(shim),
            _ => Err(self.in_state(state, "it must be running")),
        }
    }

    pub(crate) fn in_state(&self, state: &'static str, need: &'static str) -> Error {
        Error::State {
            subject: format!("container {}", self.record.id),
            state,
            need,
        }
    }

    pub(crate) fn init_pid(&self) -> i32 {
        self.init_pid.load(Ordering::Relaxed)
    }

    /// Takes what the shim has told; an older one tells nothing at the start, and has no other then.
    pub(crate) fn set_init_pid(&self, pid: i32) {
        if pid != 0 {
            self.init_pid.store(pid, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    pub(crate) fn set_start_answered(&self) {
        self.start_answered.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_start_answered(&self) -> bool {
        self.start_answered.load(Ordering::Relaxed)
    }

    /// The limits that it has; `None` where nobody has asked for any.
    pub(crate) fn limits(&self) -> Option<cri::LinuxContainerResources> {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.clone()
    }

    fn set_limits(&self, limits: Option<cri::LinuxContainerResources>) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Writes the record with its limits, and with its end. Whether the container runs before that is its shim's to tell.
    pub(crate) fn save(&self, cx: &Context) -> Result<()> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(cx, &self.state())
    }

    fn write(&self, cx: &Context, state: &State) -> Result<()> {
        let mut record = self.record.clone();
        record.limits = self.limits();
        record.shim_may_live = self.shim_may_live();
        if let State::Exited { exit, reason } = state {
            record.exit = Some(exit.clone());
            record.reason.clone_from(reason);
        }
        record_file::write(&record_path(cx, &record.id), &record)
    }
}

/// `<root>/containers/<id>/record`.
pub(crate) fn record_path(cx: &Context, id: &str) -> PathBuf {
    corten_proto::layout::container_root(&cx.config.root, id).join("record")
}

/// What tells one container of a pod from another: name and attempt (CRI, ContainerMetadata).
pub(crate) fn name(metadata: &cri::ContainerMetadata) -> String {
    format!("{} attempt {}", metadata.name, metadata.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> State {
        State::Exited {
            exit: Exited {
                code,
                ..Exited::default()
            },
            reason: String::new(),
        }
    }

    #[test]
    fn nothing_comes_after_exited() {
        let container = Container::new(record::Container::default(), State::Created, Vec::new());
        assert!(container.advance(State::Running { started_at: 1 }));
        assert!(container.advance(exited(3)));
        assert!(!container.advance(State::Running { started_at: 2 }));
        assert!(!container.advance(exited(4)));
        assert_eq!(container.state(), exited(3));
    }
}
