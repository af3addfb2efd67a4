//! Time.
//!
//! Waits and deadlines are measured by Tokio's clock, which tests pause and
//! simulations drive. Wall time is for people and records; nothing is decided
//! by it, so a stepped clock changes no lease and no delay.

use jiff::Timestamp;

/// The wall clock, for records and people.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall_now() -> Timestamp {
    #[cfg(feature = "sabotage")]
    if let Some(time) = by_hand::get() {
        return time;
    }
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A wall clock that a simulation sets, for its thread alone.
#[cfg(feature = "sabotage")]
pub mod by_hand {
    use std::cell::Cell;

    use jiff::Timestamp;

    thread_local! {
        static TIME: Cell<Option<Timestamp>> = const { Cell::new(None) };
    }

    /// Sets this thread's wall clock; none lets it follow the system's again.
    pub fn set(time: Option<Timestamp>) {
        TIME.set(time);
    }

    /// What it was set to.
    pub fn get() -> Option<Timestamp> {
        TIME.get()
    }
}

/// The wall clock in Unix milliseconds; 0 before 1970.
pub fn wall_millis() -> u64 {
    u64::try_from(wall_now().as_millisecond()).unwrap_or(0)
}
