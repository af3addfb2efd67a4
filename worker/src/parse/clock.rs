//! The CPU time of this thread.
//!
//! Limits on what a page may cost are counted in CPU time: on a busy machine,
//! wall time would cut pages that are only waiting for their turn.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The CPU time that this thread has spent. A call costs about 0.2 microseconds.
pub(super) fn cpu_time() -> Duration {
    // Neither part is ever negative.
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
