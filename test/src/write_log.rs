//! All writes of a disk, in the format of dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst), and what
//! a power cut leaves of them: all that was flushed, and any part of the rest.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result, ensure};

const MAGIC: u64 = 0x6a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
/// What a disk writes as a whole at most, if the power is cut. Bytes.
const BLOCK: u64 = 4096;

/// A recorded disk.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Bytes, on the disk.
    to: u64,
    /// Bytes, in the log.
    from: u64,
    length: u64,
    is_flush: bool,
}

impl WriteLog {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let header = words(&file, 0)?;
        ensure!(header[0] == MAGIC, "{} is no log of writes", path.display());
        // A word of half the size.
        let sector = header[3] & 0xffff_ffff;
        let mut entries = Vec::new();
        let mut at = sector;
        for _ in 0..header[2] {
            let [to, sectors, flags, _] = words(&file, at)?;
            let length = if flags & DISCARD == 0 {
                sectors * sector
            } else {
                0
            };
            entries.push(Entry {
                to: to * sector,
                from: at + sector,
                length,
                is_flush: flags & FLUSH != 0,
            });
            at += sector + length;
        }
        Ok(Self { file, entries })
    }

    /// How many writes and flushes there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The content of every write to one place, and which entry it is.
    pub fn writes_to(&self, position: u64) -> Result<Vec<(usize, Vec<u8>)>> {
        let entries = self.entries.iter().enumerate();
        let here = entries.filter(|(_, entry)| entry.to == position && entry.length > 0);
        here.map(|(number, entry)| Ok((number, self.data(entry)?)))
            .collect()
    }

    /// Brings `disk`, on which all was flushed that came before entry `from`, to what is flushed before entry `to`.
    /// Returns the entry after the last flush.
    pub fn flush(&self, disk: &File, from: usize, to: usize) -> Result<usize> {
        let flushed = self.entries[from..to]
            .iter()
            .rposition(|entry| entry.is_flush);
        let Some(flushed) = flushed else {
            return Ok(from);
        };
        let end = from + flushed + 1;
        for entry in &self.entries[from..end] {
            disk.write_all_at(&self.data(entry)?, entry.to)?;
        }
        Ok(end)
    }

    /// Writes of entries `from` to `to`, which no flush has followed, the blocks that `is_kept` says.
    pub fn leave(
        &self,
        disk: &File,
        from: usize,
        to: usize,
        mut is_kept: impl FnMut() -> bool,
    ) -> Result<()> {
        for entry in &self.entries[from..to] {
            let data = self.data(entry)?;
            let mut at = entry.to;
            for block in data.chunks(usize::try_from(BLOCK)?) {
                if is_kept() {
                    disk.write_all_at(block, at)?;
                }
                at += BLOCK;
            }
        }
        Ok(())
    }

    fn data(&self, entry: &Entry) -> Result<Vec<u8>> {
        let mut data = vec![0; usize::try_from(entry.length)?];
        self.file.read_exact_at(&mut data, entry.from)?;
        Ok(data)
    }
}

fn words(file: &File, at: u64) -> Result<[u64; 4]> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at)
        .context("read the log of writes")?;
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into()?);
    }
    Ok(words)
}
