//! A data directory: its lock, its format number, and where things lie in it.
//!
//! ```text
//! DIR/format      the format number, and a line for people
//! DIR/lock        locked by the process that uses the directory
//! DIR/control.sock  where that process can be asked, see `socket`
//! DIR/frontier/   the store
//! DIR/pages/NAME/ the WARC segments of the crawl NAME
//! DIR/tmp/        for temporary files, which have no names
//! DIR/aside/NAME/ what a repair has found in the segments that is no page
//! DIR/repairing   there while a repair has not come to its end
//! ```

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// A data directory that this process has to itself until dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "the data directory {path} is in use by {holder}; stop it first, or choose another \
         directory with --data"
    )]
    InUse {
        /// The directory.
        path: String,
        /// Who has it.
        holder: String,
    },
    /// It was made by a later trawl.
    #[error(
        "the data directory {path} has format {found}, this trawl knows formats up to {FORMAT}; \
         use the trawl that made it, or a later one"
    )]
    TooNew {
        /// The directory.
        path: String,
        /// Its format.
        found: u32,
    },
    /// It is something else.
    #[error("{path} is not a trawl data directory: {reason}; choose another with --data")]
    NotOurs {
        /// The directory.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is none.
    #[error("there is no data directory {path}; name the one of the crawl with --data")]
    Missing {
        /// The directory.
        path: String,
    },
    /// The file system says no.
    #[error("cannot use the data directory {path}: {source}")]
    Io {
        /// What was touched.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl DataDirError {
    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }

    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.display().to_string(), source }
    }
}

impl DataDir {
    /// Takes an existing directory, or makes a new one, and locks it.
    ///
    /// # Errors
    /// If it is in use, too new, not a data directory, or cannot be written.
    pub fn open_or_create(path: &Path) -> Result<Self, DataDirError> {
        let new = !path.exists();
        fs::create_dir_all(path).map_err(|error| DataDirError::io(path, error))?;
        if !new && !path.join("format").exists() && !is_empty(path)? {
            return Err(DataDirError::NotOurs {
                path: path.display().to_string(),
                reason: "it holds other files and no file named format".into(),
            });
        }
        let dir = Self::lock(path)?;
        match read_format(path)? {
            Some(_) => {}
            None => dir.write_format().map_err(|error| DataDirError::io(path, error))?,
        }
        Ok(dir)
    }

    /// Takes an existing directory and locks it.
    ///
    /// # Errors
    /// As [`DataDir::open_or_create`], and if there is none.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        if !path.join("format").exists() {
            let path = path.display().to_string();
            return Err(DataDirError::Missing { path });
        }
        let dir = Self::lock(path)?;
        read_format(path)?;
        Ok(dir)
    }

    /// The same of one that a master has begun to use.
    ///
    /// # Errors
    /// As [`DataDir::open`], and if it has no frontier.
    pub fn open_with_frontier(path: &Path) -> Result<Self, DataDirError> {
        let dir = Self::open(path)?;
        let frontier = dir.frontier();
        match frontier.exists() {
            true => Ok(dir),
            false => Err(DataDirError::Missing { path: frontier.display().to_string() }),
        }
    }

    /// Takes an empty directory, or makes one, to fill it. It is no data directory before
    /// [`DataDir::finish`]. None if there is something in it.
    ///
    /// # Errors
    /// If it is in use, or cannot be written.
    pub fn begin(path: &Path) -> Result<Option<Self>, DataDirError> {
        fs::create_dir_all(path).map_err(|error| DataDirError::io(path, error))?;
        if !is_empty(path)? {
            return Ok(None);
        }
        let dir = Self::lock(path)?;
        // Another one may have filled it meanwhile.
        Ok(is_empty(path)?.then_some(dir))
    }

    /// Makes it a data directory: all that belongs to it is there, and durable.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(&self) -> Result<(), DataDirError> {
        self.write_format().map_err(|error| DataDirError::io(&self.path, error))
    }

    /// Takes the lock, unless the format is one that is not to be touched. It is read
    /// again under the lock by whoever goes on from there.
    fn lock(path: &Path) -> Result<Self, DataDirError> {
        read_format(path)?;
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).read(true).write(true).open(&lock_path);
        let mut lock = lock.map_err(|error| DataDirError::io(&lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&lock_path).unwrap_or_default();
                let holder = match holder.trim().parse::<u32>() {
                    Ok(pid) => format!("process {pid}"),
                    Err(_) => "another process".into(),
                };
                return Err(DataDirError::InUse { path: path.display().to_string(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(DataDirError::io(&lock_path, error)),
        }
        // Who holds it is a courtesy; the lock itself does not depend on it.
        let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(|error| DataDirError::io(&lock_path, error))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Written whole or not at all, and durable before anything else is made.
    fn write_format(&self) -> io::Result<()> {
        let partial = self.path.join("format.partial");
        let mut file = File::create(&partial)?;
        writeln!(file, "{FORMAT} trawl data directory")?;
        file.sync_all()?;
        fs::rename(&partial, self.path.join("format"))?;
        File::open(&self.path)?.sync_all()
    }

    /// Checks that pages are not there without the frontier that they belong to:
    /// a new frontier knows none of them, and would cut them off.
    ///
    /// # Errors
    /// If they are.
    pub fn check_frontier(&self) -> Result<(), DataDirError> {
        let pages = self.path.join("pages");
        if pages.exists() && !self.frontier().exists() {
            return Err(DataDirError::NotOurs {
                path: self.path.display().to_string(),
                reason: "it has pages, but its frontier is gone; restore the frontier, or move \
                         the pages away"
                    .into(),
            });
        }
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store lies.
    pub fn frontier(&self) -> PathBuf {
        self.path.join("frontier")
    }

    /// A place for temporary files. It is there once it was needed.
    pub fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// Where a crawl's segments lie.
    pub fn pages(&self, crawl_name: &str) -> PathBuf {
        self.path.join("pages").join(crawl_name)
    }
}

/// The format of a directory, if it is one that we read; none if it has none yet.
fn read_format(directory: &Path) -> Result<Option<u32>, DataDirError> {
    let path = directory.join("format");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DataDirError::io(&path, error)),
    };
    let number = text.split_whitespace().next().and_then(|word| word.parse::<u32>().ok());
    let directory = directory.display().to_string();
    match number {
        Some(found) if found > FORMAT => Err(DataDirError::TooNew { path: directory, found }),
        Some(found @ 1..) => Ok(Some(found)),
        _ => Err(DataDirError::NotOurs {
            path: directory,
            reason: "its file named format does not begin with a format number".into(),
        }),
    }
}

/// Whether a directory holds nothing but what an interrupted first start left.
fn is_empty(path: &Path) -> Result<bool, DataDirError> {
    let entries = fs::read_dir(path).map_err(|error| DataDirError::io(path, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| DataDirError::io(path, error))?;
        if !matches!(entry.file_name().to_str(), Some("lock" | "format.partial" | "lost+found")) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_used_by_one_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        let first = DataDir::open_or_create(&path).unwrap();
        let error = DataDir::open_or_create(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("format"), "2 trawl data directory\n").unwrap();
        let error = DataDir::open_or_create(temp.path()).unwrap_err().to_string();
        assert!(error.contains("format 2") && error.contains("up to 1"), "{error}");
        assert!(!temp.path().join("lock").exists(), "it was touched");
    }

    #[test]
    fn other_peoples_directories_are_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("thesis.tex"), "").unwrap();
        let error = DataDir::open_or_create(temp.path()).unwrap_err();
        assert!(matches!(error, DataDirError::NotOurs { .. }));
        assert!(!temp.path().join("lock").exists());
    }

    #[test]
    fn pages_without_their_frontier_are_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("data")).unwrap();
        dir.check_frontier().unwrap();
        fs::create_dir_all(dir.pages("default")).unwrap();
        let error = dir.check_frontier().unwrap_err().to_string();
        assert!(error.contains("its frontier is gone"), "{error}");
    }

    #[test]
    fn a_first_start_that_was_interrupted_is_taken_up() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("format.partial"), "1 tr").unwrap();
        DataDir::open_or_create(temp.path()).unwrap();
    }
}
