//! The room on the disk, watched, so that a master rests before there is none.
//!
//! Below the reserve nothing more is lent; what is out is still taken, with its links, for which
//! the reserve has room. Below a quarter of it reports wait with their workers. As soon
//! as there is room again all goes on by itself.

use std::{fmt, io};

use trawl_shared::units::Size;

/// The largest reserve unless somebody chose one, and its largest share of a disk.
const RESERVE_MAX: Size = Size::mib(1024);
const RESERVE_SHARE: u64 = 20;

/// The share of the reserve below which reports are not taken either.
const LAST_SHARE: u64 = 4;

/// A file system.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes that we may still write.
    pub free: u64,
    /// Bytes that it has.
    pub size: u64,
}

/// Looks at the file system that the data directory is on.
pub type Look = Box<dyn FnMut() -> io::Result<Space> + Send>;

/// Watches the disk.
pub struct DiskWatch {
    look: Look,
    reserve: Option<Size>,
    low: Option<DiskLow>,
}

/// There is less room than the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLow {
    /// Bytes that are left.
    pub free: u64,
    /// Bytes that should be.
    pub reserve: u64,
    /// Reports have to wait, too.
    pub refuses_reports: bool,
}

impl DiskWatch {
    /// Watches what `look` sees. Without a `reserve` it is a twentieth of the disk, 1 GiB
    /// at most; with one of 0 bytes the disk is used to its end.
    pub fn new(look: Look, reserve: Option<Size>) -> Self {
        Self { look, reserve, low: None }
    }

    /// For what is not on a disk.
    pub(super) fn none() -> Self {
        Self::new(Box::new(|| Ok(Space { free: u64::MAX, size: u64::MAX })), None)
    }

    /// Looks anew, and says in the log what has changed.
    pub(super) fn look(&mut self) {
        // Without an answer things are as they were: whether there is room, writing tells.
        let Ok(Space { free, size }) = (self.look)() else { return };
        let share = (size / RESERVE_SHARE).min(RESERVE_MAX.as_bytes());
        let reserve = self.reserve.map_or(share, Size::as_bytes);
        let low = (free < reserve).then_some(DiskLow {
            free,
            reserve,
            refuses_reports: free < reserve / LAST_SHARE,
        });
        match (self.low, low) {
            (None, Some(low)) => tracing::warn!("{low}; it goes on when there is room"),
            (Some(_), None) => {
                tracing::warn!("going on: the disk has {} left", Size::bytes(free));
            }
            (Some(was), Some(low)) if was.refuses_reports != low.refuses_reports => {
                tracing::warn!("{low}");
            }
            _ => {}
        }
        self.low = low;
    }

    /// What was seen at the last look, if there is too little room.
    pub(super) fn low(&self) -> Option<DiskLow> {
        self.low
    }
}

impl fmt::Display for DiskLow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (free, reserve) = (Size::bytes(self.free), Size::bytes(self.reserve));
        write!(f, "resting: the disk has {free} left, the reserve is {reserve}")?;
        if self.refuses_reports {
            f.write_str("; workers keep their reports")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;

    const GIB: u64 = 1 << 30;

    /// A watch of a disk of this size, and the bytes that it has left.
    fn watch(size: u64, reserve: Option<Size>) -> (DiskWatch, Arc<AtomicU64>) {
        let free = Arc::new(AtomicU64::new(size));
        let seen = Arc::clone(&free);
        let look = move || Ok(Space { free: seen.load(Ordering::Relaxed), size });
        (DiskWatch::new(Box::new(look), reserve), free)
    }

    fn told(watch: &mut DiskWatch) -> String {
        watch.look();
        watch.low().map_or("plenty".into(), |low| low.to_string())
    }

    #[test]
    fn a_master_rests_below_the_reserve_and_takes_nothing_below_a_quarter_of_it() {
        let (mut watch, free) = watch(100 * GIB, None);
        assert_eq!(told(&mut watch), "plenty");
        free.store(800 << 20, Ordering::Relaxed);
        let rests = "resting: the disk has 800.0 MiB left, the reserve is 1.0 GiB";
        assert_eq!(told(&mut watch), rests);
        free.store(200 << 20, Ordering::Relaxed);
        assert!(told(&mut watch).ends_with("; workers keep their reports"));
        free.store(2 * GIB, Ordering::Relaxed);
        assert_eq!(told(&mut watch), "plenty");
    }

    #[test]
    fn the_reserve_is_a_twentieth_of_a_small_disk_unless_it_was_chosen() {
        let (mut small, free) = watch(GIB, None);
        free.store(GIB / 20 - 1, Ordering::Relaxed);
        assert!(told(&mut small).starts_with("resting"));
        free.store(GIB / 20, Ordering::Relaxed);
        assert_eq!(told(&mut small), "plenty");
        let (mut chosen, free) = watch(GIB, Some(Size::bytes(0)));
        free.store(0, Ordering::Relaxed);
        assert_eq!(told(&mut chosen), "plenty");
    }

    #[test]
    fn a_disk_that_cannot_be_looked_at_is_as_it_was() {
        let mut answers = vec![Err(()), Ok(1), Err(())];
        let look = move || match answers.pop() {
            Some(Ok(free)) => Ok(Space { free, size: 100 }),
            _ => Err(io::ErrorKind::Other.into()),
        };
        let mut watch = DiskWatch::new(Box::new(look), Some(Size::bytes(50)));
        assert_eq!(told(&mut watch), "plenty");
        assert!(told(&mut watch).starts_with("resting"));
        assert!(told(&mut watch).starts_with("resting"));
    }
}
