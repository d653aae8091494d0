//! What all clients of a churn share: whether the daemon is there, what was killed, what stands, and what went wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::File,
    future::Future,
    io::Write as _,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tonic::{Code, Response, Status};

use crate::wait::patience;

/// No call takes longer, but for the grace that it grants.
const LIMIT: Duration = Duration::from_secs(5);
/// How often a client looks whether the daemon is back.
const LOOK: Duration = Duration::from_millis(5);
/// Further problems tell nothing new.
const MAX_PROBLEMS: usize = 50;

/// Outcome of a call.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    Done(T),
    /// Answered with an error by the daemon.
    Refused,
    /// Without an answer: the client has left, or the daemon was killed. How far it came is not known.
    Cut,
}

/// Call as it is traced and judged.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub(super) client: u64,
    pub(super) name: &'static str,
    pub(super) id: &'a str,
    /// Granted to a container that is stopped.
    pub(super) grace: Duration,
    /// When the client leaves.
    pub(super) leaves: Option<Duration>,
}

/// Objects that have to be there after a restart: each was acknowledged, and no client has begun to end it.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub(super) pods: BTreeSet<String>,
    pub(super) containers: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) socket: PathBuf,
    began: Instant,
    /// Odd while the daemon is being replaced.
    generation: AtomicU64,
    /// Of shims and plugins.
    kills: AtomicU64,
    /// Containers whose shim was killed.
    killed: Mutex<BTreeSet<String>>,
    standing: Mutex<Standing>,
    problems: Mutex<Vec<String>>,
    trace: Mutex<File>,
    /// Calls by name, with the longest of each.
    calls: Mutex<BTreeMap<&'static str, (u64, Duration)>>,
    over: AtomicBool,
}

impl World {
    pub(super) fn new(socket: PathBuf, trace: File) -> Self {
        Self {
            socket,
            began: Instant::now(),
            generation: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            killed: Mutex::default(),
            standing: Mutex::default(),
            problems: Mutex::default(),
            trace: Mutex::new(trace),
            calls: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    /// No further life begins.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Waits for the daemon. Returns its generation.
    pub(super) async fn up(&self) -> u64 {
        loop {
            let generation = self.generation.load(Ordering::SeqCst);
            if generation.is_multiple_of(2) {
                return generation;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The daemon is about to be killed, or is there again.
    pub(super) fn turn(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// The shim of `container`, or a plugin, is about to be killed.
    pub(super) fn note_kill(&self, container: Option<&str>) {
        if let Some(container) = container {
            lock(&self.killed).insert(container.to_owned());
        }
        self.kills.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn lost_its_shim(&self, container: &str) -> bool {
        lock(&self.killed).contains(container)
    }

    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        lock(&self.standing)
    }

    pub(super) fn problem(&self, what: &str) {
        self.write(&format!("PROBLEM {what}"));
        let mut problems = lock(&self.problems);
        if problems.len() < MAX_PROBLEMS {
            problems.push(format!(
                "{:.3} s: {what}",
                self.began.elapsed().as_secs_f64()
            ));
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        lock(&self.problems).clone()
    }

    /// Text with a line for each call that was made: how often, and how long at most.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        for (name, (count, longest)) in &*lock(&self.calls) {
            let _ = writeln!(text, "{name:24} {count:7} calls, at most {longest:.3?}");
        }
        text
    }

    pub(super) fn write(&self, line: &str) {
        let at = self.began.elapsed().as_secs_f64();
        // A trace that cannot be written must not end the run.
        let _ = writeln!(lock(&self.trace), "{at:.6}\t{line}");
    }

    /// Makes a call, traces it, and judges its answer.
    pub(super) async fn call<T>(
        &self,
        call: &Call<'_>,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Outcome<T> {
        let (generation, kills) = (
            self.generation.load(Ordering::SeqCst),
            self.kills.load(Ordering::SeqCst),
        );
        let start = Instant::now();
        let answer = match call.leaves {
            Some(limit) => tokio::time::timeout(limit, answer).await.ok(),
            None => Some(answer.await),
        };
        let took = start.elapsed();
        let is_same_daemon = self.generation.load(Ordering::SeqCst) == generation;
        let was_killed = self.kills.load(Ordering::SeqCst) != kills || self.lost_its_shim(call.id);
        let (told, outcome) = match answer {
            None => ("the client has left".to_owned(), Outcome::Cut),
            Some(Ok(reply)) => ("done".to_owned(), Outcome::Done(reply.into_inner())),
            // An error of the client's own side.
            Some(Err(status)) if std::error::Error::source(&status).is_some() => {
                if is_same_daemon {
                    self.problem(&format!(
                        "{}: the connection was lost: {status}",
                        call.text()
                    ));
                }
                ("the daemon is gone".to_owned(), Outcome::Cut)
            }
            Some(Err(status)) => {
                let is_fine = matches!(status.code(), Code::NotFound | Code::FailedPrecondition);
                if !is_fine && !was_killed {
                    self.problem(&format!("{}: {status}", call.text()));
                }
                (
                    format!("{:?}: {}", status.code(), status.message()),
                    Outcome::Refused,
                )
            }
        };
        let limit = LIMIT.mul_f64(patience()) + call.grace;
        if is_same_daemon && took > limit {
            self.problem(&format!("{}: it took {took:.3?}", call.text()));
        }
        self.write(&format!(
            "{}\t{took:.3?}\tdaemon {}\t{told}",
            call.text(),
            generation / 2
        ));
        if is_same_daemon {
            let mut calls = lock(&self.calls);
            let (count, longest) = calls.entry(call.name).or_default();
            *count += 1;
            *longest = (*longest).max(took.saturating_sub(call.grace));
        }
        outcome
    }
}

impl Call<'_> {
    fn text(&self) -> String {
        let id = self.id.get(..12).unwrap_or(self.id);
        let mut text = format!("client {}\t{} {id}", self.client, self.name);
        if !self.grace.is_zero() {
            let _ = write!(text, " (grace {:?})", self.grace);
        }
        text
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
