//! The pages of every crawl, in turn.

use std::path::{Path, PathBuf};

use trawl_shared::untrusted::Untrusted;

use super::{
    VerifyError,
    matcher::{Entry, Match, Matcher},
    report::{Kind, Report},
    rows::Tallies,
};
use crate::pages::{Committed, Segments, Survey};

/// Pages between two words on how far it has come.
const TOLD_PAGES: u64 = 1_000;

/// Takes the places of pages, sorted.
pub(super) struct PageProof<'a> {
    directory: PathBuf,
    crawls: Tallies,
    told: &'a mut dyn FnMut(u64),
    read: u64,
    /// The number of the crawl that was begun last.
    begun: u32,
    /// That crawl; none if it has no row, and so no name.
    current: Option<(u32, Matcher, Verdicts)>,
}

/// What becomes of a crawl's pages.
struct Verdicts {
    name: String,
    committed: Committed,
    stored: u64,
}

impl<'a> PageProof<'a> {
    pub(super) fn new(directory: &Path, crawls: Tallies, told: &'a mut dyn FnMut(u64)) -> Self {
        Self { directory: directory.into(), crawls, told, read: 0, begun: 0, current: None }
    }

    /// Takes the next place.
    pub(super) fn place(&mut self, record: &[u8], report: &mut Report) -> Result<(), VerifyError> {
        let Some((crawl, entry)) = Entry::of(record) else { return Ok(()) };
        self.begin(crawl, report)?;
        self.read += 1;
        if self.read.is_multiple_of(TOLD_PAGES) {
            (self.told)(self.read);
        }
        let Some((_, matcher, verdicts)) = &mut self.current else { return Ok(()) };
        matcher.entry(entry, &mut |found| verdicts.take(found, report))
    }

    /// Goes on to a crawl: those before it are over, also those without a page.
    fn begin(&mut self, crawl: u32, report: &mut Report) -> Result<(), VerifyError> {
        let next: Vec<u32> = self
            .crawls
            .range(self.begun.saturating_add(1)..crawl.saturating_add(1))
            .map(|(number, _)| *number)
            .collect();
        for number in next {
            self.end_current(report)?;
            self.begun = number;
            let tally = self.crawls.get(&number).filter(|tally| tally.row.is_some());
            let Some(tally) = tally else { continue };
            let (name, committed) = (tally.proof.name.clone(), tally.committed);
            let segments = Segments::new(&self.directory.join(&name), &name)?;
            let matcher = Matcher::new(Survey::new(segments, committed), committed);
            self.current = Some((number, matcher, Verdicts { name, committed, stored: 0 }));
        }
        Ok(())
    }

    fn end_current(&mut self, report: &mut Report) -> Result<(), VerifyError> {
        let Some((number, mut matcher, mut verdicts)) = self.current.take() else { return Ok(()) };
        matcher.finish(&mut |found| verdicts.take(found, report))?;
        let directory = self.directory.join(&verdicts.name);
        if let Some(tally) = self.crawls.get_mut(&number) {
            tally.proof.stored = verdicts.stored;
            let segments = Segments::new(&directory, &verdicts.name)?;
            let found = if directory.exists() { segments.list()? } else { Default::default() };
            let Committed { segment, bytes } = verdicts.committed;
            let later = found.range(segment + 1..).map(|(_, bytes)| *bytes).sum::<u64>();
            let last = found.get(&segment).copied().unwrap_or_default();
            tally.proof.uncommitted_bytes = later + last.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Looks at what is left.
    pub(super) fn finish(mut self, report: &mut Report) -> Result<(), VerifyError> {
        if let Some(last) = self.crawls.keys().next_back().copied() {
            self.begin(last, report)?;
        }
        self.end_current(report)?;
        report.crawls = self.crawls.into_values().map(|tally| tally.proof).collect();
        Ok(())
    }
}

impl Verdicts {
    fn take(&mut self, found: Match, report: &mut Report) -> Result<(), VerifyError> {
        let name = &self.name;
        let told = |entry: &Entry, what: &str| {
            let (id, place) = (entry.id, entry.place);
            let (segment, offset) = (place.segment, place.offset);
            format!(
                "crawl \"{name}\": the page of URL {id} {what} (segment {segment}, byte {offset})"
            )
        };
        match found {
            Match::Stored(_) => self.stored += 1,
            Match::Head { .. } | Match::Damage { is_told: true, .. } => {}
            Match::Missing(entry, how) => {
                report.differs(Kind::PageMissing, || told(&entry, how));
            }
            Match::Damaged(entry, why) => {
                report.differs(Kind::PageDamaged, || told(&entry, &format!("is damaged: {why}")));
            }
            Match::Other(entry, page, how) => report.differs(Kind::PageDamaged, || {
                let url = Untrusted::new(&page.meta.url);
                told(&entry, &format!("{how}: there is {url}"))
            }),
            Match::Unknown(page) => report.differs(Kind::PageUnknown, || {
                let (segment, offset) = (page.place.segment, page.place.offset);
                let url = Untrusted::new(&page.meta.url);
                format!(
                    "crawl \"{name}\": a page of {url} lies in segment {segment} at byte {offset} \
                     that the frontier does not know"
                )
            }),
            Match::Damage { segment, from, to, why, .. } => report.differs(Kind::Damage, || {
                format!(
                    "crawl \"{name}\": bytes {from} to {to} of segment {segment} are no page: {why}"
                )
            }),
            Match::NoSegment(segment) => report.differs(Kind::Segment, || {
                format!("crawl \"{name}\": segment {segment} is missing")
            }),
            Match::Short(segment, bytes) => {
                let committed = self.committed.bytes;
                report.differs(Kind::Segment, || {
                    format!(
                        "crawl \"{name}\": segment {segment} has {bytes} bytes, {committed} were \
                         committed"
                    )
                });
            }
        }
        Ok(())
    }
}
