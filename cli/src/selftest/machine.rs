//! What the machine is like, as far as a master depends on it: how long its disk takes to make
//! something durable, how much room there is, how many files may be open.

use std::{fs::OpenOptions, io::Write as _, path::Path, time::Duration};

use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};
use tokio::time::Instant;
use trawl_shared::units::Size;

use crate::exit::{Exit, Failure};

/// Writes that are timed, and the longest that they may take together.
const WRITES: usize = 400;
const WRITES_TIME: Duration = Duration::from_secs(3);

/// Bytes of each, about what a small commit writes.
const WRITE_BYTES: usize = 4096;

/// Room that the selftest needs.
const ROOM: Size = Size::mib(256);

/// Files that a worker of the usual size may have open at once, with much to spare.
const OPEN_FILES: u64 = 1024;

/// What was found.
#[derive(Debug)]
pub(super) struct Machine {
    /// How long a small write and its `fdatasync` take: the middle, and the slowest of a hundred.
    pub(super) sync_median: Duration,
    pub(super) sync_p99: Duration,
    /// Room for others than root.
    pub(super) free: Size,
    /// Files that a process may have open; none for no limit.
    pub(super) open_files: Option<u64>,
}

impl Machine {
    /// Looks at the machine and the disk of a directory.
    ///
    /// # Errors
    /// If the disk cannot be written to, or there is too little room.
    pub(super) fn look(directory: &Path) -> Result<Self, Failure> {
        let disk = statvfs(directory).map_err(|error| cannot_be_used(directory, &error.into()))?;
        let free = Size::bytes(disk.f_bavail.saturating_mul(disk.f_frsize));
        if free < ROOM {
            let directory = directory.display();
            let message = format!("{directory} has {free} of room, and the selftest needs {ROOM}");
            return Err(Failure::new(Exit::DiskFull, message));
        }
        let mut times = sync_times(directory).map_err(|error| cannot_be_used(directory, &error))?;
        times.sort_unstable();
        Ok(Self {
            sync_median: times[times.len() / 2],
            sync_p99: times[times.len() * 99 / 100],
            free,
            open_files: getrlimit(Resource::Nofile).current,
        })
    }

    /// What a person might want to change.
    pub(super) fn advice(&self) -> Vec<String> {
        /// No disk is as quick as this.
        const TOO_QUICK: Duration = Duration::from_micros(15);
        /// From here on a master spends its time waiting.
        const SLOW: Duration = Duration::from_millis(50);
        let mut advice = Vec::new();
        if self.sync_median < TOO_QUICK {
            advice.push(
                "the disk says sooner that something is safe than it can be: it is memory, or does \
                 not flush; what it holds is lost with the power"
                    .to_owned(),
            );
        }
        if self.sync_median > SLOW {
            advice.push("the disk is slow to make writes safe; a master would wait for it".into());
        }
        if self.open_files.is_some_and(|files| files < OPEN_FILES) {
            advice.push(format!("few files may be open; allow {OPEN_FILES} or more (ulimit -n)"));
        }
        advice
    }
}

fn cannot_be_used(directory: &Path, error: &std::io::Error) -> Failure {
    let exit = match error.kind() {
        std::io::ErrorKind::StorageFull => Exit::DiskFull,
        _ => Exit::DataDir,
    };
    Failure::new(exit, format!("{} cannot be used: {error}", directory.display()))
}

/// How long each of some small writes takes until it is safe. At least one.
fn sync_times(directory: &Path) -> std::io::Result<Vec<Duration>> {
    let path = directory.join("sync");
    let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
    let (began, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || (times.len() < WRITES && began.elapsed() < WRITES_TIME) {
        let write = Instant::now();
        file.write_all(&[0x5A; WRITE_BYTES])?;
        file.sync_data()?;
        times.push(write.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(times)
}
