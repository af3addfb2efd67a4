//! Deliberate faults, for tests to show that such faults would be found.
//!
//! A test that passes proves little until it has failed for the right reason. Each
//! fault here takes away one thing that a promise hangs on; the simulation must then
//! report the promise broken. Only the `sabotage` feature, which no shipped build has,
//! lets a fault be set; without it [`is`] is always false and costs nothing.

/// Something that is left out or done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The master answers before what it answers is durable.
    AnswerBeforeSync,
    /// The master stores the records of reports before it has judged them.
    StoreUnjudged,
    /// The worker goes on with a lease that may have run out.
    IgnoreDeadline,
    /// The master forgets after a restart when a host was last let go of.
    ForgetVisits,
    /// The master takes reports under tokens that are no longer good.
    TakeStale,
    /// The master does not take back leases that have run out.
    KeepExpired,
    /// The master writes counts apart from what they count.
    SplitCommit,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 7] = [
        Self::AnswerBeforeSync,
        Self::StoreUnjudged,
        Self::IgnoreDeadline,
        Self::ForgetVisits,
        Self::TakeStale,
        Self::KeepExpired,
        Self::SplitCommit,
    ];
}

#[cfg(feature = "sabotage")]
mod set {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Sets this thread's fault until the guard is dropped.
    #[must_use]
    pub fn commit(fault: Fault) -> Guard {
        FAULT.set(Some(fault));
        Guard(())
    }

    /// Ends a fault when dropped.
    #[derive(Debug)]
    pub struct Guard(());

    impl Drop for Guard {
        fn drop(&mut self) {
            FAULT.set(None);
        }
    }

    pub(super) fn current() -> Option<Fault> {
        FAULT.get()
    }
}

#[cfg(feature = "sabotage")]
pub use set::{Guard, commit};

/// Whether this fault is to be made on this thread.
#[cfg(feature = "sabotage")]
pub fn is(fault: Fault) -> bool {
    set::current() == Some(fault)
}

/// Whether this fault is to be made: never.
#[cfg(not(feature = "sabotage"))]
pub const fn is(_fault: Fault) -> bool {
    false
}
