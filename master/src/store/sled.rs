//! The embedded store: sled 0.34.7, hardened. The only module that knows sled.
//!
//! As published, sled's flush on Linux calls `sync_file_range`, which writes
//! neither the file's size nor the disk's own cache: a power cut loses flushed
//! data. This build gives that symbol a body of its own that calls `fdatasync`,
//! and refuses to run where sled does not reach it. A kill while the database is
//! opening can leave half a snapshot that sled would then load; it is removed
//! first. All rows live in one tree, because a batch is atomic within a tree.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use trawl_shared::units::Size;

use super::{Batch, Rows, Store, StoreError};
use crate::sabotage::{Hardening, is_left_out};

/// How often sled asked for durability; proves that the override is linked.
static SYNCS: AtomicU64 = AtomicU64::new(0);

/// Stands in for glibc's function of this name in the whole program.
///
/// # Safety
/// As the original: `fd` may be any number, an invalid one is answered by -1.
#[expect(unsafe_code, reason = "the override that makes sled's flush durable")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(
    fd: libc::c_int,
    offset: libc::off64_t,
    bytes: libc::off64_t,
    flags: libc::c_uint,
) -> libc::c_int {
    if is_left_out(Hardening::StoreSync) {
        // SAFETY: the call that this function stands in for; it touches no memory.
        let done = unsafe { libc::syscall(libc::SYS_sync_file_range, fd, offset, bytes, flags) };
        return done as libc::c_int;
    }
    SYNCS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: fdatasync takes any descriptor and touches no memory.
    unsafe { libc::fdatasync(fd) }
}

/// A store in a directory of its own, which the caller holds the lock for.
#[derive(Debug)]
pub struct SledStore {
    db: sled::Db,
    directory: PathBuf,
}

impl SledStore {
    /// Opens the store in `directory`, or makes it. `cache` bounds sled's page
    /// cache; its page table comes on top, about 33 bytes a row.
    ///
    /// # Errors
    /// If the directory cannot be written, the data is damaged, or sled's flush
    /// would not be durable in this build.
    pub fn open(directory: &Path, cache: Size) -> Result<Self, StoreError> {
        fs::create_dir_all(directory).map_err(|error| from_io(directory, &error))?;
        remove_half_snapshots(directory).map_err(|error| from_io(directory, &error))?;
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(cache.as_bytes())
            .flush_every_ms(None);
        let db = open_when_free(&config)?;
        let store = Self { db, directory: directory.to_owned() };
        if !is_left_out(Hardening::StoreSync) {
            store.prove_flush()?;
            store.sync_files().map_err(|error| from_io(directory, &error))?;
        }
        Ok(store)
    }

    /// Flushes a change and looks whether the override above was called for it.
    fn prove_flush(&self) -> Result<(), StoreError> {
        let before = SYNCS.load(Ordering::Relaxed);
        // Always another value: sled does not write what is there already.
        self.db.insert(PROOF_KEY, &fastrand::u64(..).to_be_bytes()).map_err(from_sled)?;
        self.db.flush().map_err(from_sled)?;
        if SYNCS.load(Ordering::Relaxed) == before {
            return Err(StoreError::Unsafe(
                "this build of trawl cannot make its data durable: sled's flush does not reach \
                 fdatasync (the sync_file_range override is not linked); use an official build",
            ));
        }
        Ok(())
    }

    /// Makes durable what sled created without a sync of its own, and the
    /// directory's entries.
    fn sync_files(&self) -> io::Result<()> {
        for name in ["db", "conf"] {
            File::open(self.directory.join(name))?.sync_all()?;
        }
        File::open(&self.directory)?.sync_all()?;
        match self.directory.parent() {
            Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }

    /// Bytes that the store takes on disk.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.db.size_on_disk().map_err(from_sled)
    }
}

/// Opens the database. Its directory is locked by us, so that if sled's own lock
/// is taken, then by threads of a database that was just closed in this process:
/// they are waited for.
fn open_when_free(config: &sled::Config) -> Result<sled::Db, StoreError> {
    const TRIES: u32 = 500;
    const WAIT: Duration = Duration::from_millis(10);
    for _ in 1..TRIES {
        match open_caught(config)? {
            Err(sled::Error::Io(error)) if error.to_string().contains("acquire lock") => {
                std::thread::sleep(WAIT);
            }
            opened => return opened.map_err(from_sled),
        }
    }
    open_caught(config)?.map_err(from_sled)
}

/// Opens the database, and catches the panics that sled has for some kinds of damage.
fn open_caught(config: &sled::Config) -> Result<sled::Result<sled::Db>, StoreError> {
    catch_unwind(AssertUnwindSafe(|| config.open()))
        .map_err(|panic| StoreError::Damaged(panic_text(panic.as_ref())))
}

/// Sorts before every row of ours (see `keys`), and is never read.
const PROOF_KEY: &[u8] = &[0];

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get(key).map_err(from_sled)?.map(|value| value.to_vec()))
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let rows = self.db.range(from.to_vec()..to.to_vec());
        Box::new(rows.map(|row| {
            let (key, value) = row.map_err(from_sled)?;
            Ok((key.to_vec(), value.to_vec()))
        }))
    }

    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut changes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        self.db.apply_batch(changes).map_err(from_sled)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.db.flush().map(|_| ()).map_err(from_sled)
    }
}

/// A snapshot counts from its rename on; one that still has this ending is what
/// a kill left behind.
fn remove_half_snapshots(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            tracing::warn!(file = %path.display(), "removing a snapshot that was never finished");
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn from_io(path: &Path, error: &io::Error) -> StoreError {
    if error.kind() == io::ErrorKind::StorageFull {
        return StoreError::DiskFull;
    }
    StoreError::Engine(format!("{}: {error}", path.display()))
}

fn from_sled(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            StoreError::DiskFull
        }
        sled::Error::Corruption { .. } => StoreError::Damaged(error.to_string()),
        error => StoreError::Engine(error.to_string()),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("sled gave up while opening: {}", text.unwrap_or("no reason given"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_synced_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frontier");
        let mut store = SledStore::open(&path, Size::mib(16)).unwrap();
        store.apply(vec![(b"Ka".to_vec(), Some(b"1".to_vec()))]).unwrap();
        store.sync().unwrap();
        drop(store);
        let store = SledStore::open(&path, Size::mib(16)).unwrap();
        assert_eq!(store.get(b"Ka").unwrap(), Some(b"1".to_vec()));
    }

    #[test]
    fn a_store_opens_as_often_as_one_likes() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            SledStore::open(dir.path(), Size::mib(16)).unwrap();
        }
    }

    #[test]
    fn half_a_snapshot_does_not_keep_the_store_from_opening() {
        let dir = tempfile::tempdir().unwrap();
        drop(SledStore::open(dir.path(), Size::mib(16)).unwrap());
        let half = dir.path().join("snap.0000000000000FFF.generating");
        fs::write(&half, b"half").unwrap();
        SledStore::open(dir.path(), Size::mib(16)).unwrap();
        assert!(!half.exists());
    }

    #[test]
    fn every_flush_reaches_fdatasync() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SledStore::open(dir.path(), Size::mib(16)).unwrap();
        let before = SYNCS.load(Ordering::Relaxed);
        store.apply(vec![(b"Ka".to_vec(), Some(b"1".to_vec()))]).unwrap();
        store.sync().unwrap();
        assert!(SYNCS.load(Ordering::Relaxed) > before);
    }
}
