//! What can become of a URL, and which failures are worth another try.

use std::{fmt, str::FromStr};

/// Why a fetch brought no final answer. The words are stable: they travel on
/// the wire, and stand in the store and in summaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// The name does not resolve.
    NoSuchHost,
    /// The name server gave no answer.
    Dns,
    /// The connection was refused or could not be made.
    Connect,
    /// TLS could not be agreed on, or the certificate is not valid.
    Tls,
    /// A phase took longer than its limit.
    Timeout,
    /// The connection broke before the answer was whole.
    Broken,
    /// The answer was not HTTP.
    Protocol,
    /// The host answered with a status that asks to come back later.
    Busy,
    /// robots.txt could not be had, so nothing may be fetched yet (RFC 9309 §2.3.1.4).
    RobotsUnavailable,
    /// robots.txt disallows it.
    Disallowed,
    /// The address is outside the public internet and not allowed.
    ForbiddenAddress,
    /// The worker gave up on the page for reasons of its own.
    Internal,
    /// No proxy could be used. The host was not asked, and is not to blame.
    Proxy,
}

/// The class that an ended URL is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Status 2xx.
    Ok,
    /// Status 3xx.
    Redirect,
    /// Status 4xx.
    ClientError,
    /// Status 5xx.
    ServerError,
    /// Any other status.
    OtherStatus,
    /// No final answer.
    Failed(FailureKind),
    /// Its host, or a rule for it, had used up its page budget.
    OverBudget,
    /// It took down too many workers, or was taken for a trap.
    Quarantined,
    /// Somebody gave it up, or it was taken for a trap while the quarantine was full.
    Dropped,
}

impl FailureKind {
    /// Every kind, in the order of summaries.
    pub const ALL: [Self; 13] = [
        Self::NoSuchHost,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Broken,
        Self::Protocol,
        Self::Busy,
        Self::RobotsUnavailable,
        Self::Disallowed,
        Self::ForbiddenAddress,
        Self::Internal,
        Self::Proxy,
    ];

    /// The kind's stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoSuchHost => "no_such_host",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Protocol => "protocol",
            Self::Busy => "busy",
            Self::RobotsUnavailable => "robots_unavailable",
            Self::Disallowed => "robots",
            Self::ForbiddenAddress => "forbidden_address",
            Self::Internal => "internal",
            Self::Proxy => "proxy",
        }
    }

    /// Whether the same request may succeed later.
    pub const fn is_transient(self) -> bool {
        !matches!(self, Self::NoSuchHost | Self::Disallowed | Self::ForbiddenAddress)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for FailureKind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.word() == word).ok_or(())
    }
}

/// Whether a response with this status asks to come back later: 408, 425, 429
/// and all of 5xx but 501 and 505, which no wait will change.
pub fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502..=504 | 506..=599)
}

impl Class {
    /// How many classes there are; each has a number below.
    pub const COUNT: usize = 8 + FailureKind::ALL.len();

    /// The class of a final answer.
    pub const fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Ok,
            300..=399 => Self::Redirect,
            400..=499 => Self::ClientError,
            500..=599 => Self::ServerError,
            _ => Self::OtherStatus,
        }
    }

    /// Every class, in the order of summaries.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Ok, Self::Redirect, Self::ClientError, Self::ServerError, Self::OtherStatus]
            .into_iter()
            .chain(FailureKind::ALL.into_iter().map(Self::Failed))
            .chain([Self::OverBudget, Self::Quarantined, Self::Dropped])
    }

    /// The class's number, as it is stored; new classes go at the end.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Redirect => 1,
            Self::ClientError => 2,
            Self::ServerError => 3,
            Self::OtherStatus => 4,
            Self::OverBudget => 5,
            Self::Quarantined => 6,
            Self::Dropped => 19,
            Self::Failed(FailureKind::Proxy) => 20,
            Self::Failed(kind) => 7 + kind as u8,
        }
    }

    /// The class of a stored number.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::all().find(|class| class.number() == number)
    }

    /// The class's stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Redirect => "redirect",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::OtherStatus => "other_status",
            Self::Failed(kind) => kind.word(),
            Self::OverBudget => "over_budget",
            Self::Quarantined => "quarantined",
            Self::Dropped => "dropped",
        }
    }

    /// Whether a page counts against the budgets: every answer but a redirect.
    pub const fn is_page(self) -> bool {
        matches!(self, Self::Ok | Self::ClientError | Self::ServerError | Self::OtherStatus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_own_number_and_word() {
        let mut words = std::collections::HashSet::new();
        let mut numbers = std::collections::HashSet::new();
        for class in Class::all() {
            assert!(words.insert(class.word()));
            assert!(numbers.insert(class.number()));
            assert_eq!(Class::of_number(class.number()), Some(class));
            assert!(usize::from(class.number()) < Class::COUNT);
        }
        assert_eq!(numbers.len(), Class::COUNT);
    }

    #[test]
    fn only_what_may_change_is_tried_again() {
        for status in [408, 429, 500, 502, 503, 504, 520] {
            assert!(is_transient_status(status), "{status}");
        }
        for status in [200, 301, 404, 403, 410, 501, 505, 600, 999] {
            assert!(!is_transient_status(status), "{status}");
        }
        assert!(FailureKind::Timeout.is_transient());
        assert!(!FailureKind::Disallowed.is_transient());
    }
}
