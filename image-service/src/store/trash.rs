//! Deleting, off everyone's path: what must go is renamed into one directory, which a thread of the
//! store's own empties. A rename works on a full disk.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, Weak, mpsc};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::Store;
use crate::error::{At as _, Error};

#[derive(Debug)]
pub(crate) struct Trash {
    path: PathBuf,
    dir: OwnedFd,
    next: AtomicU64,
    /// One thread empties at a time.
    emptying: Mutex<()>,
}

impl Trash {
    pub(super) fn open(path: PathBuf) -> Result<Self, Error> {
        let dir = File::open(&path).at("open", &path)?;
        Ok(Self {
            path,
            dir: dir.into(),
            next: AtomicU64::new(0),
            emptying: Mutex::new(()),
        })
    }

    #[cfg(test)]
    pub(crate) fn open_for_test(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self::open(path).unwrap()
    }

    /// Moves an entry of an open directory away. Deep trees cost no more than flat ones.
    pub(crate) fn take(&self, parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        loop {
            let to = self.next.fetch_add(1, Ordering::Relaxed).to_string();
            match renameat_with(parent, name, &self.dir, &to, RenameFlags::NOREPLACE) {
                // Left over from an earlier run.
                Err(Errno::EXIST) => {}
                other => return other,
            }
        }
    }

    pub(super) fn take_path(&self, path: &Path) -> Result<(), Error> {
        loop {
            let to = self.next.fetch_add(1, Ordering::Relaxed).to_string();
            match renameat_with(CWD, path, &self.dir, &to, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(()),
                other => return other.at("rename to trash", path),
            }
        }
    }

    /// Blocks until all is gone. No recursion: an image can nest directories deeper than any stack
    /// or descriptor table, so each directory that is not empty is first moved up here.
    pub(super) fn empty(&self) -> Result<(), Error> {
        let _one = self.emptying.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut found = false;
            for entry in fs::read_dir(&self.path).at("read", &self.path)? {
                let path = entry.at("read", &self.path)?.path();
                found = true;
                self.delete(&path)?;
            }
            if !found {
                return Ok(());
            }
        }
    }

    fn delete(&self, path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
            other => return other.at("delete", path),
        }
        for entry in fs::read_dir(path).at("read", path)? {
            let child = entry.at("read", path)?;
            if child.file_type().at("read", child.path())?.is_dir() {
                if fs::remove_dir(child.path()).is_err() {
                    self.take_path(&child.path())?;
                }
            } else {
                fs::remove_file(child.path()).at("delete", child.path())?;
            }
        }
        fs::remove_dir(path).at("delete", path)
    }
}

/// Work for the store's thread.
#[derive(Debug)]
pub(super) enum Job {
    EmptyTrash,
    /// Layers whose last hold was dropped.
    Sweep(Vec<String>),
    /// Layers that nothing needs, and an answer when they are gone.
    SweepAll(oneshot::Sender<()>),
}

/// The thread ends with the store.
#[derive(Debug, Clone)]
pub(super) struct Janitor(mpsc::Sender<Job>);

impl Janitor {
    pub(super) fn new() -> (Self, mpsc::Receiver<Job>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }

    /// Without a thread (the store is closing) the next start finds what is left.
    pub(super) fn ask(&self, job: Job) {
        drop(self.0.send(job));
    }
}

pub(super) fn work(store: &Weak<Store>, jobs: &mpsc::Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let Some(store) = store.upgrade() else {
            return;
        };
        let done = match &job {
            Job::EmptyTrash => store.trash.empty(),
            Job::Sweep(names) => store.sweep(Some(names)),
            Job::SweepAll(_) => store.sweep(None),
        };
        if let Err(error) = done {
            tracing::warn!(%error, source = ?std::error::Error::source(&error), "image garbage not deleted");
        }
        if let Job::SweepAll(answer) = job {
            // The caller may have left.
            answer.send(()).ok();
        }
    }
}
