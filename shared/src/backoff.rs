//! How long to wait before the next try.

use std::time::Duration;

/// The wait after the `attempt`-th try failed (counted from 1): `base` doubled
/// from try to try, plus up to as much again by `chance` (0 to 1), at most `max`.
///
/// The chance spreads the tries of many URLs that failed together.
pub fn wait(attempt: u32, base: Duration, max: Duration, chance: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(30);
    let grown = base.saturating_mul(1 << doublings).min(max);
    let spread = grown.mul_f64(chance.clamp(0.0, 1.0));
    grown.saturating_add(spread).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_spread_and_bounded() {
        let secs = Duration::from_secs;
        assert_eq!(wait(1, secs(5), secs(300), 0.0), secs(5));
        assert_eq!(wait(1, secs(5), secs(300), 1.0), secs(10));
        assert_eq!(wait(2, secs(5), secs(300), 0.5), secs(15));
        assert_eq!(wait(3, secs(5), secs(300), 0.0), secs(20));
        assert_eq!(wait(40, secs(5), secs(300), 0.9), secs(300));
        assert_eq!(wait(1, secs(0), secs(300), 0.9), secs(0));
    }
}
