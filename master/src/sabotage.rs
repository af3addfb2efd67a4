//! Hardening against power cuts that a test leaves out, to see that it would be
//! missed.
//!
//! As `trawl_shared::sabotage`, but for the whole process, since sled writes on threads
//! of its own. Without the `sabotage` feature nothing can be left out.

/// Something that makes acknowledged data durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hardening {
    /// That sled's flush reaches fdatasync; left out, it is as sled publishes it.
    StoreSync = 1,
    /// That segments are synced before the outcomes that point into them.
    PageSync = 2,
}

#[cfg(feature = "sabotage")]
mod set {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Hardening;

    static LEFT_OUT: AtomicU8 = AtomicU8::new(0);

    /// Leaves this out, in this process from now on.
    pub fn leave_out(hardening: Hardening) {
        LEFT_OUT.store(hardening as u8, Ordering::Relaxed);
    }

    pub(crate) fn is_left_out(hardening: Hardening) -> bool {
        LEFT_OUT.load(Ordering::Relaxed) == hardening as u8
    }
}

#[cfg(feature = "sabotage")]
pub(crate) use set::is_left_out;
#[cfg(feature = "sabotage")]
pub use set::leave_out;

/// Whether this is left out: never.
#[cfg(not(feature = "sabotage"))]
pub(crate) const fn is_left_out(_hardening: Hardening) -> bool {
    false
}
