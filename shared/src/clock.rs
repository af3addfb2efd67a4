//! Time.
//!
//! Waits and deadlines are measured by Tokio's clock, which tests pause and
//! simulations drive. Wall time is for people and records; nothing is decided
//! by it, so a stepped clock changes no lease and no delay.

use jiff::Timestamp;

/// The wall clock, for records and people.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall_now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The wall clock in Unix milliseconds; 0 before 1970.
pub fn wall_millis() -> u64 {
    u64::try_from(wall_now().as_millisecond()).unwrap_or(0)
}
