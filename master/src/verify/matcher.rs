//! The page index held against the segments of a crawl, both in the order of the bytes:
//! what is at its place, what is not, and what lies there besides.

use trawl_shared::url::UrlId;

use super::VerifyError;
use crate::pages::{Committed, Find, FoundPage, PageStoreError, Place, Survey};

/// An entry of the index.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) host: u32,
    pub(crate) place: Place,
    pub(crate) id: UrlId,
    pub(crate) sha1: [u8; 20],
}

/// What has come of holding them against each other.
#[derive(Debug)]
pub(crate) enum Match {
    /// The page is where its entry says.
    Stored(Entry),
    /// It is not.
    Missing(Entry, &'static str),
    /// What is there is not whole.
    Damaged(Entry, String),
    /// What is there is another page than the entry says; or the same, and the entry is
    /// wrong about it.
    Other(Entry, Box<FoundPage>, &'static str),
    /// A page without an entry.
    Unknown(Box<FoundPage>),
    /// A record about the segment.
    Head { segment: u32, from: u64, to: u64 },
    /// Bytes that are nothing; within an entry's place if `is_told`.
    Damage { segment: u32, from: u64, to: u64, why: String, is_told: bool },
    /// A segment is not there.
    NoSegment(u32),
    /// A segment is shorter than it was.
    Short(u32, u64),
}

/// A crawl's segments, waiting for its entries.
pub(crate) struct Matcher {
    pub(crate) committed: Committed,
    survey: Survey,
    /// What was found and not yet held against an entry.
    find: Option<Find>,
    /// Where the last entry's place ends: what is found before that is a part of it.
    covered: (u32, u64),
    former: Option<Place>,
}

impl Entry {
    /// Bytes of an entry in its record.
    const BYTES: usize = 4 + Place::BYTES + 20 + 20;

    /// As it is sorted: crawl and place first.
    pub(crate) fn record(&self, crawl: u32) -> Vec<u8> {
        let (crawl, host) = (crawl.to_be_bytes(), self.host.to_be_bytes());
        [&crawl[..], &self.place.encode(), &host, &self.id.0, &self.sha1].concat()
    }

    /// The crawl and the entry of a record.
    pub(crate) fn of(record: &[u8]) -> Option<(u32, Self)> {
        let (crawl, rest) = record.split_first_chunk::<4>()?;
        if rest.len() != Self::BYTES {
            return None;
        }
        let (place, rest) = rest.split_at(Place::BYTES);
        let (host, rest) = rest.split_first_chunk::<4>()?;
        let (id, sha1) = rest.split_first_chunk::<20>()?;
        let entry = Self {
            host: u32::from_be_bytes(*host),
            place: Place::decode(place)?,
            id: UrlId(*id),
            sha1: sha1.try_into().ok()?,
        };
        Some((u32::from_be_bytes(*crawl), entry))
    }
}

impl Matcher {
    /// Waits for the entries of what is committed, or is in the survey at all.
    pub(crate) fn new(survey: Survey, committed: Committed) -> Self {
        Self { committed, survey, find: None, covered: (0, 0), former: None }
    }

    /// Holds the next entry against what is found up to its place.
    pub(crate) fn entry<E: From<VerifyError>>(
        &mut self,
        entry: Entry,
        take: &mut dyn FnMut(Match) -> Result<(), E>,
    ) -> Result<(), E> {
        let place = entry.place;
        let at = (place.segment, place.offset);
        if self.former.is_some_and(|former| (former.segment, former.offset) == at) {
            return take(Match::Missing(entry, "stands where another URL's does"));
        }
        self.former = Some(place);
        let Committed { segment, bytes } = self.committed;
        if place.segment > segment || (place.segment == segment && place.end() > bytes) {
            return take(Match::Missing(entry, "stands behind what was committed"));
        }
        while self.look()? && self.find.as_ref().is_some_and(|find| start(find) < at) {
            self.pass(take)?;
        }
        let found = self.find.take_if(|find| start(find) == at);
        match found {
            Some(Find::Page(page)) if page.place != place => {
                self.covered = (place.segment, page.place.end());
                take(Match::Other(entry, page, "has other lengths than it should"))
            }
            Some(Find::Page(page)) => {
                self.covered = (place.segment, place.end());
                if page.id != entry.id {
                    take(Match::Other(entry, page, "is that of another URL"))
                } else if page.sha1 != entry.sha1 {
                    take(Match::Other(entry, page, "has another digest than it should"))
                } else {
                    take(Match::Stored(entry))
                }
            }
            Some(Find::Damage { segment, from, to, why }) => {
                self.covered = (place.segment, place.end());
                take(Match::Damaged(entry, why.clone()))?;
                take(Match::Damage { segment, from, to, why, is_told: true })
            }
            found => {
                self.find = found.or(self.find.take());
                take(Match::Missing(entry, "is not there"))
            }
        }
    }

    /// Passes by all that is left.
    pub(crate) fn finish<E: From<VerifyError>>(
        &mut self,
        take: &mut dyn FnMut(Match) -> Result<(), E>,
    ) -> Result<(), E> {
        while self.look()? {
            self.pass(take)?;
        }
        Ok(())
    }

    /// Whether there is something more; it is in `find` then.
    fn look(&mut self) -> Result<bool, VerifyError> {
        if self.find.is_none() {
            let find: Result<_, PageStoreError> = self.survey.next_find();
            self.find = find?;
        }
        Ok(self.find.is_some())
    }

    /// Passes by what no entry points at.
    fn pass<E: From<VerifyError>>(
        &mut self,
        take: &mut dyn FnMut(Match) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(find) = self.find.take() else { return Ok(()) };
        // What seems to be a page within a damaged one is a part of its content.
        let is_told = start(&find) < self.covered;
        take(match find {
            Find::Head { segment, from, to } | Find::Damage { segment, from, to, .. }
                if is_told =>
            {
                Match::Damage { segment, from, to, why: String::new(), is_told }
            }
            Find::Page(page) if is_told => Match::Damage {
                segment: page.place.segment,
                from: page.place.offset,
                to: page.place.end(),
                why: String::new(),
                is_told,
            },
            Find::Head { segment, from, to } => Match::Head { segment, from, to },
            Find::Damage { segment, from, to, why } => {
                Match::Damage { segment, from, to, why, is_told }
            }
            Find::Page(page) => Match::Unknown(page),
            Find::Missing { segment } => Match::NoSegment(segment),
            Find::Short { segment, bytes } => Match::Short(segment, bytes),
        })
    }
}

/// Where something begins.
fn start(find: &Find) -> (u32, u64) {
    match find {
        Find::Page(page) => (page.place.segment, page.place.offset),
        Find::Head { segment, from, .. } | Find::Damage { segment, from, .. } => (*segment, *from),
        Find::Missing { segment } | Find::Short { segment, .. } => (*segment, 0),
    }
}
