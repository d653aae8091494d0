//! What detached pods leave: a link that is down already, and the addresses behind it.
//!
//! The kernel takes 30 ms and more to delete a link, and hardly more for forty of them. So nobody waits for it: the end of
//! the pod's namespace takes the pair along, and where the namespace stays, links are deleted together. An address is free
//! when its link is gone. The thread that sees to it lives while there is something to do.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::Builder,
    time::{Duration, Instant},
};

use crate::{
    builtin::{Pool, host_name},
    cache::Cache,
    error::{Doing, Result},
    netlink::Links,
};

/// How long a namespace has for its end.
const GRACE: Duration = Duration::from_millis(200);
/// Between two looks: the first, and the longest.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_millis(80);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// Nobody waits longer for an address.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one pod leaves.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) id: String,
    pub(crate) pool: Pool,
    /// What it probably has.
    pub(crate) ips: Vec<IpAddr>,
}

#[derive(Debug)]
pub(crate) struct Reaper {
    cache: Arc<Cache>,
    /// Marks this daemon's links that are to be deleted.
    group: u32,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    leaving: Vec<(Instant, Arc<Leaving>)>,
    is_at_work: bool,
    /// Somebody waits.
    is_urgent: bool,
}

impl Reaper {
    pub(crate) fn new(instance: &str, cache: Arc<Cache>) -> Self {
        // Never 0, which is the group of all links.
        let group = 0x8000_0000 | u32::from_str_radix(instance, 16).unwrap_or_default();
        Self {
            cache,
            group,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Nobody reaches the pod any more.
    pub(crate) fn retire(&self, id: &str) -> io::Result<()> {
        Links::open()?.retire(&host_name(id), self.group).map(drop)
    }

    /// Sees to what is left of a pod, when it can.
    pub(crate) fn take(self: &Arc<Self>, leaving: Leaving) {
        let mut state = self.lock();
        state.leaving.push((Instant::now(), Arc::new(leaving)));
        if state.is_at_work {
            return;
        }
        let reaper = Arc::clone(self);
        match Builder::new()
            .name("cni-reaper".into())
            .spawn(move || reaper.work())
        {
            Ok(_) => state.is_at_work = true,
            Err(error) => {
                tracing::warn!(%error, "links of detached pods stay until the next is detached")
            }
        }
    }

    /// Waits until nothing is left to do; false if there was nothing. Blocks.
    pub(crate) fn wait(&self) -> bool {
        self.wait_while(|_| true)
    }

    /// Waits until nothing is left of an earlier attachment of this container. Blocks.
    pub(crate) fn wait_for(&self, id: &str) {
        self.wait_while(|leaving| leaving.id == id);
    }

    fn wait_while(&self, is_waited_for: impl Fn(&Leaving) -> bool) -> bool {
        let mut state = self.lock();
        let there = |state: &State| {
            state
                .leaving
                .iter()
                .any(|(_, leaving)| is_waited_for(leaving))
        };
        if !there(&state) {
            return false;
        }
        state.is_urgent = true;
        self.changed.notify_all();
        let waited = self
            .changed
            .wait_timeout_while(state, PATIENCE, |state| there(state));
        drop(waited);
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut pause = SOON;
        loop {
            let state = self.lock();
            let paused = self
                .changed
                .wait_timeout_while(state, pause, |state| !state.is_urgent);
            let (mut state, _) = paused.unwrap_or_else(PoisonError::into_inner);
            let is_urgent = std::mem::take(&mut state.is_urgent);
            let leaving = state.leaving.clone();
            drop(state);
            let (gone, failure) = self.reap(&leaving, is_urgent);
            pause = if failure.is_some() {
                AGAIN
            } else {
                LATER.min(pause * 2)
            };
            if let Some(error) = failure {
                tracing::warn!(%error, "what a detached pod has left is still there");
            }
            let mut state = self.lock();
            state
                .leaving
                .retain(|(_, leaving)| !gone.contains(&leaving.id));
            let is_done = state.leaving.is_empty();
            if is_done {
                state.is_at_work = false;
            }
            self.changed.notify_all();
            if is_done {
                return;
            }
        }
    }

    /// Returns the ids of those of whom nothing is left, and what went wrong with another.
    fn reap(
        &self,
        leaving: &[(Instant, Arc<Leaving>)],
        is_urgent: bool,
    ) -> (Vec<String>, Option<crate::Error>) {
        let mut gone = Vec::new();
        let overdue = |since: &Instant| is_urgent || since.elapsed() > GRACE;
        let late = leaving.iter().filter(|(since, _)| overdue(since));
        if let Err(error) = self.delete(late.map(|(_, leaving)| leaving.id.as_str())) {
            return (gone, Some(error));
        }
        let mut failure = None;
        for (_, leaving) in leaving {
            match self.finish(leaving) {
                Ok(true) => gone.push(leaving.id.clone()),
                Ok(false) => {}
                Err(error) => failure = Some(error),
            }
        }
        (gone, failure)
    }

    fn delete<'a>(&self, ids: impl Iterator<Item = &'a str>) -> Result<()> {
        let doing = || "delete links of detached pods".to_owned();
        let mut links = Links::open().doing(doing)?;
        let mut any = false;
        for id in ids {
            any |= links.retire(&host_name(id), self.group).doing(doing)?;
        }
        if any {
            links.delete_group(self.group).doing(doing)?;
        }
        Ok(())
    }

    /// Frees the addresses when the link is gone.
    fn finish(&self, leaving: &Leaving) -> Result<bool> {
        let name = host_name(&leaving.id);
        let found = Links::open().and_then(|mut links| links.find(&name));
        if found.doing(|| format!("look for {name}"))?.is_some() {
            return Ok(false);
        }
        leaving.pool.release(&leaving.id, &leaving.ips)?;
        self.cache.left(&leaving.id)?;
        Ok(true)
    }
}
