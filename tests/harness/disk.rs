//! Disks of a test's own: one whose power can be cut, and one that is small. Both are mounted
//! in a temporary folder and gone with the value. For that a test must be root.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use tempfile::TempDir;

use crate::{Duration, ms};

/// An ext4 file system in a file.
///
/// A cut throws away all that the file system has not yet written to its disk, and lets nothing
/// be written any more: what a power cut does, for programs as for the file system.
#[derive(Debug)]
pub struct Disk {
    mounted: Mounted,
    image: PathBuf,
}

/// A file system in memory of a few MiB.
#[derive(Debug)]
pub struct SmallDisk {
    mounted: Mounted,
}

/// A place where something is mounted, until dropped.
#[derive(Debug)]
struct Mounted {
    folder: TempDir,
}

/// `EXT4_IOC_SHUTDOWN`, and that not even the journal is to be written.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
static NO_LOG_FLUSH: u32 = 2;

/// How long a file system may be busy after everything on it was killed, and how long others may
/// hold it.
const BUSY: Duration = ms(5_000);
const HELD: Duration = ms(60_000);

impl Disk {
    /// A new file system of this size.
    #[expect(clippy::new_without_default, reason = "it makes a file system, which is no default")]
    pub fn new() -> Self {
        const BYTES: u64 = 1 << 30;
        let mounted = Mounted::new();
        let image = mounted.folder.path().join("image");
        File::create(&image).unwrap().set_len(BYTES).unwrap();
        run("mkfs.ext4", [OsStr::new("-q"), "-F".as_ref(), image.as_os_str()]).unwrap();
        let disk = Self { mounted, image };
        disk.mount();
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.mounted.path()
    }

    /// Cuts its power.
    pub fn cut(&self) {
        let root = File::open(self.path()).unwrap();
        #[expect(unsafe_code, reason = "there is no other way to ask the kernel for this")]
        // SAFETY: the call reads one number, which outlives it.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const NO_LOG_FLUSH) };
        assert_eq!(done, 0, "no power cut: {}", io::Error::last_os_error());
    }

    /// Mounts it again after a cut. Whoever had files open on it must have ended.
    ///
    /// # Panics
    /// If something holds on to the file system that was cut off.
    pub fn restore(&self) {
        self.mounted.unmount().unwrap();
        // Whoever made a mount namespace meanwhile has it there, too, and until that is gone it
        // would be what is mounted again.
        let mut waited = ms(0);
        while self.is_attached() {
            assert!(waited < HELD, "the disk is held by another mount namespace");
            thread::sleep(ms(20));
            waited += ms(20);
        }
        self.mount();
    }

    fn is_attached(&self) -> bool {
        let devices = Command::new("losetup").arg("--associated").arg(&self.image).output();
        !devices.unwrap().stdout.is_empty()
    }

    fn mount(&self) {
        let place = self.path();
        run("mount", ["-o".as_ref(), "loop".as_ref(), self.image.as_os_str(), place.as_os_str()])
            .unwrap();
    }
}

impl SmallDisk {
    /// A file system of so many MiB.
    pub fn new(mib: u64) -> Self {
        let mounted = Mounted::new();
        let (size, place) = (format!("size={mib}m"), mounted.path());
        let words = ["-t", "tmpfs", "-o", &size, "none"].map(OsStr::new);
        run("mount", words.into_iter().chain([place.as_os_str()])).unwrap();
        Self { mounted }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.mounted.path()
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, mib: u64) {
        let (size, place) = (format!("remount,size={mib}m"), self.path());
        run("mount", ["-o".as_ref(), OsStr::new(&size), place.as_os_str()]).unwrap();
    }

    /// Takes all its space but these bytes with a file of its own.
    pub fn fill(&self, left: u64) {
        let ballast = File::create(self.ballast()).unwrap();
        let bytes = self.free().saturating_sub(left);
        #[expect(unsafe_code, reason = "the standard library cannot take space for a file")]
        // SAFETY: the call touches no memory.
        let done = unsafe { libc::posix_fallocate(ballast.as_raw_fd(), 0, bytes as i64) };
        assert_eq!(done, 0, "the disk cannot be filled: {}", io::Error::from_raw_os_error(done));
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub fn clear(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let at = rustix::fs::statvfs(self.path()).unwrap();
        at.f_bavail * at.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Mounted {
    fn new() -> Self {
        let folder = TempDir::with_prefix("trawl-disk-").unwrap();
        fs::create_dir(folder.path().join("disk")).unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// What was killed a moment ago may still be letting go of its files.
    fn unmount(&self) -> Result<(), String> {
        let place = self.path();
        let mut waited = ms(0);
        loop {
            match run("umount", [&place]) {
                Err(_) if waited < BUSY => thread::sleep(ms(20)),
                done => return done,
            }
            waited += ms(20);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(&self.path()) && self.unmount().is_err() {
            // The test has failed, or has left something running that has files open here.
            let _ = run("umount", ["--lazy".as_ref(), self.path().as_os_str()]);
        }
    }
}

fn is_mounted(place: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == place.to_str())
}

fn run<S: AsRef<OsStr>>(program: &str, words: impl IntoIterator<Item = S>) -> Result<(), String> {
    let done = Command::new(program).args(words).output();
    let done = done.map_err(|error| format!("{program} cannot be run: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("{program} failed; is this run by root? It said: {said}"))
}
