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
pub(super) struct Output {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    is_committed: bool,
}

impl Output {
    /// Starts the output; a partial one that a crash left behind is overwritten.
    pub(super) fn create(path: &Path) -> Result<Self, ExportError> {
        check(path)?;
        let partial = beside(path, ".partial");
        let error = |source| ExportError::Write { path: partial.clone(), source };
        let file = File::create(&partial).map_err(error)?;
        Ok(Self {
            path: path.into(),
            partial,
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            bytes: 0,
            is_committed: false,
        })
    }

    /// Writes the pieces, one after the other.
    pub(super) fn write(&mut self, pieces: &[&[u8]]) -> Result<(), ExportError> {
        for piece in pieces {
            self.file.write_all(piece).map_err(|source| self.error(source))?;
            self.bytes += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes the output durable and gives it its name; says how long it is.
    pub(super) fn commit(mut self) -> Result<u64, ExportError> {
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        written.map_err(|source| self.error(source))?;
        check(&self.path)?;
        fs::rename(&self.partial, &self.path)
            .and_then(|()| sync_parent(&self.path))
            .map_err(|source| self.error(source))?;
        self.is_committed = true;
        Ok(self.bytes)
    }

    /// An error in writing this output.
    pub(super) fn error(&self, source: io::Error) -> ExportError {
        ExportError::Write { path: self.path.clone(), source }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.is_committed {
            // Worth no error of its own: the next export overwrites it.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// The path with something added to its file name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
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

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
