//! One attempt to make something: all of it, or nothing.

use std::future::Future;

use corten_proto::record::Resource;

use super::{Entry, Undo};
use crate::error::{Error, Result};

/// An attempt that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// Where not everything could be undone: to be closed when a record of the object tells of what is left. Until then the
    /// next start of the daemon undoes it.
    pub(crate) left_over: Option<Entry>,
}

/// Runs `act`, which records and publishes what it made. When it fails or panics, undoes `resources`.
///
/// The ledger's entry goes when the object is recorded or nothing is left of it.
pub(crate) async fn attempt<T: Send + 'static>(
    undo: &Undo,
    entry: Entry,
    resources: &[Resource],
    act: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T, Failed> {
    let error = match tokio::spawn(act).await {
        Ok(Ok(made)) => {
            close(entry);
            return Ok(made);
        }
        Ok(Err(error)) => error,
        Err(panic) => {
            tracing::error!(%panic, "an operation panicked");
            Error::Panicked
        }
    };
    let undone = match entry.revoke() {
        Ok(()) => undo.run(resources).await,
        Err(error) => Err(error),
    };
    let left_over = match undone {
        Ok(()) => {
            close(entry);
            None
        }
        Err(left) => {
            tracing::warn!(
                error = left.chain(),
                "a failed operation could not be undone"
            );
            Some(entry)
        }
    };
    Err(Failed { error, left_over })
}

/// An entry that stays although its object is recorded, or gone, is taken away at the next start.
pub(crate) fn close(entry: Entry) {
    if let Err(error) = entry.close() {
        tracing::warn!(
            error = error.chain(),
            "an entry of the ledger could not be removed"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc, time::Duration};

    use corten_cni::{Cni, Options};
    use corten_proto::record::{Operation, resource::Kind};
    use corten_sys::cgroup::Hierarchies;

    use super::*;
    use crate::operation::Ledger;

    fn undo(dir: &Path) -> Undo {
        let cni = Cni::new(Options {
            conf_dir: dir.join("net.d"),
            bin_dirs: Vec::new(),
            cache_dir: dir.join("cni"),
            builtin: true,
            dev_network: false,
            instance: "00000000".into(),
            data_dir: dir.join("addresses"),
            timeout: Duration::from_secs(1),
        });
        Undo {
            cni,
            hierarchies: Arc::new(Hierarchies::detect().unwrap()),
            selinux_levels: Arc::default(),
        }
    }

    #[tokio::test]
    async fn what_cannot_be_undone_has_no_record_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        // It is no directory, so that this step fails.
        let (file, record) = (dir.path().join("file"), dir.path().join("record"));
        fs::write(&file, "").unwrap();
        let resources = [Resource {
            kind: Some(Kind::Directory(file.display().to_string())),
        }];
        let ledger = Ledger::open(dir.path()).unwrap();
        let entry = ledger.begin("id", record.clone(), &Operation::default());
        let written = record.clone();
        let failed = attempt(&undo(dir.path()), entry.unwrap(), &resources, async move {
            fs::write(written, "").unwrap();
            Err::<(), _>(Error::Panicked)
        })
        .await
        .unwrap_err();
        assert!(failed.left_over.is_some());
        assert!(!record.exists());
        assert_eq!(ledger.unfinished().unwrap().len(), 1);
    }
}
