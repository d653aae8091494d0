//! The database: three tables, JSON values, each commit durable.
//!
//! After an I/O error redb refuses all further work on a handle, so it is opened anew.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use corten_sys::private;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{At as _, Error};

type Table = TableDefinition<'static, &'static str, &'static [u8]>;
const IMAGES: Table = TableDefinition::new("images");
const LAYERS: Table = TableDefinition::new("layers");
const DOCUMENTS: Table = TableDefinition::new("documents");
const CACHE: usize = 1 << 20;

/// One image, by its id. Fields are only ever added, with a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) repo_tags: Vec<String>,
    pub(super) repo_digests: Vec<String>,
    /// Bottom first.
    pub(super) layers: Vec<String>,
    /// `None` for an image from a docker archive.
    pub(super) manifest: Option<Digest>,
    /// Unit: bytes of manifest and config.
    pub(super) documents_size: u64,
    #[serde(default)]
    pub(super) pinned: bool,
}

/// One layer, by its directory's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) chain: Digest,
    /// Unit: bytes.
    pub(super) bytes: u64,
    pub(super) inodes: u64,
    /// `None` if it was unpacked before tar-split files were written.
    #[serde(default)]
    pub(super) diff_id: Option<Digest>,
    /// Unit: seconds since the epoch.
    #[serde(default)]
    pub(super) committed: u64,
}

/// What one transaction changes; `None` removes.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) images: Vec<(String, Option<ImageRecord>)>,
    pub(super) layers: Vec<(String, Option<LayerRecord>)>,
    pub(super) documents: Vec<(Digest, Option<Vec<u8>>)>,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) images: Vec<(String, ImageRecord)>,
    pub(super) layers: Vec<(String, LayerRecord)>,
}

/// A database that was opened, one way or the other.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) records: Records,
    pub(super) contents: Contents,
    pub(super) condition: Option<String>,
}

#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    /// `None` after a failed write that could not be followed by opening again.
    database: Option<Database>,
}

impl Records {
    /// A database that cannot be read is moved to `quarantine`, and a new one made; the condition
    /// tells the operator so.
    pub(super) fn open(path: &Path, quarantine: &Path) -> Result<Opened, Error> {
        let error = match open(path) {
            Ok((database, contents)) => {
                return Ok(Opened {
                    records: Self::new(path, database),
                    contents,
                    condition: None,
                });
            }
            Err(error) => error,
        };
        if !is_broken(&error) {
            return Err(failed("open", error));
        }
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since_epoch.map_or(0, |duration| duration.as_secs());
        let aside = quarantine.join(format!("images.redb.{seconds}"));
        fs::rename(path, &aside).at("move to quarantine", path)?;
        let (database, contents) = open(path).map_err(|error| failed("make", error))?;
        Ok(Opened {
            records: Self::new(path, database),
            contents,
            condition: Some(format!(
                "the image database was unreadable ({error}) and lies in {}; images are pulled again when needed",
                aside.display()
            )),
        })
    }

    fn new(path: &Path, database: Database) -> Self {
        Self {
            path: path.to_owned(),
            database: Some(database),
        }
    }

    pub(super) fn document(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let database = self.database()?;
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = database.begin_read()?.open_table(DOCUMENTS)?;
            let value = table.get(digest.to_string().as_str())?;
            Ok(value.map(|value| value.value().to_vec()))
        };
        read().map_err(|error| failed("read", error))
    }

    /// All or nothing, on disk when it returns.
    pub(super) fn write(&mut self, change: &Change) -> Result<(), Error> {
        let result = write(self.database()?, change);
        if result.is_err() {
            self.database = None;
        }
        result.map_err(|error| failed("commit", error))
    }

    fn database(&mut self) -> Result<&Database, Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => {
                let (database, _) = open(&self.path).map_err(|error| failed("open", error))?;
                database
            }
        };
        Ok(self.database.insert(database))
    }
}

fn open(path: &Path) -> Result<(Database, Contents), redb::Error> {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(private::FILE).open(path)?;
    // One of an earlier daemon.
    file.set_permissions(Permissions::from_mode(private::FILE))?;
    let database = Builder::new().set_cache_size(CACHE).create(path)?;
    if database.begin_read()?.list_tables()?.next().is_none() {
        let transaction = database.begin_write()?;
        for table in [IMAGES, LAYERS, DOCUMENTS] {
            transaction.open_table(table)?;
        }
        transaction.commit()?;
    }
    let transaction = database.begin_read()?;
    let contents = Contents {
        images: rows(&transaction, IMAGES)?,
        layers: rows(&transaction, LAYERS)?,
    };
    drop(transaction);
    Ok((database, contents))
}

fn write(database: &Database, change: &Change) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut images = transaction.open_table(IMAGES)?;
        for (id, record) in &change.images {
            match record {
                Some(record) => drop(images.insert(id.as_str(), &json(record)?[..])?),
                None => drop(images.remove(id.as_str())?),
            }
        }
        let mut layers = transaction.open_table(LAYERS)?;
        for (name, record) in &change.layers {
            match record {
                Some(record) => drop(layers.insert(name.as_str(), &json(record)?[..])?),
                None => drop(layers.remove(name.as_str())?),
            }
        }
        let mut documents = transaction.open_table(DOCUMENTS)?;
        for (digest, bytes) in &change.documents {
            let key = digest.to_string();
            match bytes {
                Some(bytes) => drop(documents.insert(key.as_str(), &bytes[..])?),
                None => drop(documents.remove(key.as_str())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn json(record: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(record).map_err(|error| redb::Error::Io(error.into()))
}

/// A row that cannot be read is passed over: one broken record must not take the others along.
fn rows<T: DeserializeOwned>(
    transaction: &redb::ReadTransaction,
    table: Table,
) -> Result<Vec<(String, T)>, redb::Error> {
    let mut rows = Vec::new();
    for row in transaction.open_table(table)?.iter()? {
        let (key, value) = row?;
        match serde_json::from_slice(value.value()) {
            Ok(record) => rows.push((key.value().to_owned(), record)),
            Err(error) => tracing::warn!(key = key.value(), %error, "image record unreadable"),
        }
    }
    Ok(rows)
}

fn is_broken(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. } => true,
        _ => false,
    }
}

fn failed(op: &'static str, source: redb::Error) -> Error {
    Error::Records {
        op,
        source: Box::new(source),
    }
}
