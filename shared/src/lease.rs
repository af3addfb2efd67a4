//! The words of the lease contract that both sides speak.

use std::fmt;

/// The number that makes a late report stale: `epoch << 40 | sequence`. The epoch
/// rises with every start of the master, so a token is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// The master's answer to a report of one URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Applied,
    /// It had counted before; nothing changed.
    Already,
    /// The URL is no longer the worker's; nothing changed.
    Stale,
}

impl Token {
    /// Bits of the sequence.
    const SEQUENCE_BITS: u32 = 40;

    /// The first token of an epoch.
    pub const fn first_of(epoch: u32) -> Self {
        Self((epoch as u64) << Self::SEQUENCE_BITS)
    }

    /// The token after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sequence = self.0 & ((1 << Self::SEQUENCE_BITS) - 1);
        write!(f, "{}.{sequence}", self.0 >> Self::SEQUENCE_BITS)
    }
}
