//! A file that appears under its name only when it is whole.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::ExportError;

const BUFFER_BYTES: usize = 256 * 1024;

/// Written as `<name>.partial`; renamed when committed, removed when dropped
/// before.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    is_committed: bool,
}

impl WholeFile {
    /// Starts the file; a partial one that a crash left behind is overwritten.
    ///
    /// # Errors
    /// If a directory has its name, or if the system says no.
    pub fn create(path: &Path) -> Result<Self, ExportError> {
        check(path)?;
        let mut partial = OsString::from(path);
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial)
            .map_err(|source| ExportError::Write { path: partial.clone(), source })?;
        Ok(Self {
            path: path.into(),
            partial,
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            is_committed: false,
        })
    }

    /// Makes the file durable and gives it its name, in the place of what had it.
    ///
    /// # Errors
    /// As [`WholeFile::create`]; what was there stays then.
    pub fn commit(mut self) -> Result<(), ExportError> {
        check(&self.path)?;
        self.give_name().map_err(|source| ExportError::Write { path: self.path.clone(), source })
    }

    fn give_name(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        self.is_committed = true;
        File::open(parent(&self.path))?.sync_all()
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if !self.is_committed {
            // Worth no error of its own: the next export overwrites it.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

fn check(path: &Path) -> Result<(), ExportError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ExportError::Write { path: path.into(), source });
        }
    };
    if found.is_dir() {
        return Err(ExportError::Directory(path.into()));
    }
    Ok(())
}

/// The directory that a file is in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
