//! The pages of a crawl, in bounded WARC segments.
//!
//! Promises: what [`PageStore::sync`] returned is on stable storage; opening with
//! what the frontier's store committed cuts off everything else, so that a
//! segment never holds a record that does not count; a page that could not be
//! appended leaves no trace. Which pages count is the frontier's store's to say,
//! and that there is one writer its data directory's.
//!
//! `place` says where a page is, `crawl` how many there are, `segment` holds the
//! files, `read` finds one page, `scan` passes over all of them, `answer` takes an
//! HTTP answer apart and `decode` undoes its content coding; `survey` goes on where
//! something is damaged.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use trawl_shared::{
    clock,
    units::Size,
    warc::{
        Head, Lengths, MemberWriter, RECORD_END, RecordId, RecordType, seeded_rng, warcinfo_block,
    },
};

mod place;

mod crawl;

mod segment;

mod read;

mod scan;

mod survey;

mod answer;

mod decode;

pub use answer::Answer;
pub use crawl::CrawlPages;
pub use place::{Committed, Place};
pub use read::{ReadError, RecordError, StoredPage, StoredResponse};
pub use scan::{Scan, ScannedPage};
pub use segment::Segments;
pub use survey::{Find, FoundPage, Survey};

use segment::Segment;

/// Bytes that opening cuts off at most. There is never more between two commits;
/// more than that means that these segments belong to another store, and then
/// nothing is deleted.
pub const TORN_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Bytes that every gzip member has at least: its header and trailer.
const MEMBER_BYTES_MIN: u32 = 18;

/// The segments of one crawl, open for appending.
#[derive(Debug)]
pub struct PageStore {
    segments: Segments,
    segment_bytes_max: u64,
    current: Option<Segment>,
    synced: Committed,
    /// A sync failed: what the kernel holds and what the disk has may differ.
    has_failed: bool,
    rng: fastrand::Rng,
}

/// Why pages could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum PageStoreError {
    /// A name with a path in it, or hidden, or too long.
    #[error("{0:?} cannot name a crawl's files")]
    Name(String),
    /// The system said no.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Committed bytes are gone.
    #[error(
        "{} has {found} bytes, but {committed} were committed: the disk has lost pages; restore \
         them, or let `trawl repair` have them fetched again",
        path.display()
    )]
    Short {
        /// The segment.
        path: PathBuf,
        /// Bytes that it has.
        found: u64,
        /// Bytes that it should have at least.
        committed: u64,
    },
    /// A committed segment is gone.
    #[error(
        "{} is missing, but was committed: the disk has lost pages; restore them, or let `trawl \
         repair` have them fetched again",
        .0.display()
    )]
    Missing(PathBuf),
    /// Far more than one commit's worth was never committed.
    #[error(
        "{} holds {bytes} bytes of this crawl that its frontier knows nothing of; do the two \
         belong together? `trawl repair` takes the pages in; or move the segments away to start \
         without them", dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Bytes that would have been deleted.
        bytes: u64,
    },
    /// The bytes are not what their lengths say.
    #[error("the records of a page are not three gzip members of the lengths given")]
    Records,
    /// A sync failed before.
    #[error("an earlier write of pages failed to become durable; nothing is written since")]
    Failed,
}

impl PageStoreError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// Whether the disk, or the share of it that we may use, is full. After an
    /// append the store is as before, and goes on when there is room again; after
    /// a sync it must be rewound first.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

/// Makes a directory, and its entry and its parent's entry durable.
fn create_durably(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for above in dir.ancestors().skip(1).take(2) {
        let above = if above == Path::new("") { Path::new(".") } else { above };
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

impl PageStore {
    /// Opens the segments of `crawl` in `dir`, which is made if it is not there,
    /// and cuts off what was not committed. A segment is closed before it grows
    /// over `segment_bytes_max`; only a single larger page makes a larger one.
    ///
    /// # Errors
    /// If committed bytes are gone, if suspiciously much would be cut off, or if
    /// the system says no.
    pub fn open(
        dir: &Path,
        crawl: &str,
        committed: Committed,
        segment_bytes_max: Size,
    ) -> Result<Self, PageStoreError> {
        let segments = Segments::new(dir, crawl)?;
        create_durably(dir).map_err(|source| PageStoreError::io("create", dir, source))?;
        let mut store = Self {
            segments,
            segment_bytes_max: segment_bytes_max.as_bytes(),
            current: None,
            synced: Committed::default(),
            has_failed: false,
            rng: seeded_rng(),
        };
        store.rewind(committed)?;
        Ok(store)
    }

    /// Appends a page's records, in as many pieces as they came, and says where
    /// they are. They are durable, and may be committed, after [`Self::sync`].
    ///
    /// # Errors
    /// If the bytes are not what `lengths` says, or the system says no. The store
    /// is then as before, and further pages may be appended; unless the error is
    /// [`PageStoreError::Failed`] or came of a sync, after which the store must be
    /// rewound or opened again.
    pub fn append(&mut self, records: &[Bytes], lengths: Lengths) -> Result<Place, PageStoreError> {
        self.check()?;
        if !are_members(records, lengths) {
            return Err(PageStoreError::Records);
        }
        let fits = |segment: &Segment| segment.end + lengths.total() <= self.segment_bytes_max;
        if !self.current.as_ref().is_some_and(fits) {
            self.start_segment()?;
        }
        let segment = self.current.as_mut().ok_or(PageStoreError::Failed)?;
        let place = Place::new(segment.number, segment.end, lengths);
        segment.append(records)?;
        Ok(place)
    }

    /// Makes what was appended durable, and returns what is to be committed along
    /// with the pages' outcomes.
    ///
    /// # Errors
    /// If the system says no. Nothing of what was appended since the last sync
    /// may be committed then, and the store refuses pages until it is rewound or
    /// opened again: after a failed sync the kernel may take lost bytes for written.
    pub fn sync(&mut self) -> Result<Committed, PageStoreError> {
        self.check()?;
        if let Some(segment) = &self.current {
            let reached = Committed { segment: segment.number, bytes: segment.end };
            if reached != self.synced {
                self.has_failed = true;
                segment.sync()?;
                self.has_failed = false;
                self.synced = reached;
            }
        }
        Ok(self.synced)
    }

    /// What the last sync made durable.
    pub fn committed(&self) -> Committed {
        self.synced
    }

    /// Where the segments are, for readers.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Cuts the segments back to an earlier commit: at opening, and when the
    /// frontier's store refused what was synced.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn rewind(&mut self, to: Committed) -> Result<(), PageStoreError> {
        self.has_failed = true;
        self.current = None;
        let found = self.segments.list()?;
        self.check_committed(&found, to)?;
        if to.segment > 0 {
            let path = self.segments.path(to.segment);
            self.current = Some(Segment::open(path, to.segment, to.bytes)?);
        }
        for (number, _) in found.range(to.segment + 1..).rev() {
            let path = self.segments.path(*number);
            fs::remove_file(&path).map_err(|source| PageStoreError::io("remove", &path, source))?;
        }
        self.segments.sync_dir()?;
        self.synced = to;
        self.has_failed = false;
        Ok(())
    }

    fn check_committed(
        &self,
        found: &BTreeMap<u32, u64>,
        to: Committed,
    ) -> Result<(), PageStoreError> {
        if let Some(number) = (1..=to.segment).find(|number| !found.contains_key(number)) {
            return Err(PageStoreError::Missing(self.segments.path(number)));
        }
        let last = found.get(&to.segment).copied().unwrap_or_default();
        if last < to.bytes {
            let path = self.segments.path(to.segment);
            return Err(PageStoreError::Short { path, found: last, committed: to.bytes });
        }
        let later: u64 = found.range(to.segment + 1..).map(|(_, bytes)| bytes).sum();
        let bytes = later + (last - to.bytes);
        if bytes > TORN_BYTES_MAX {
            return Err(PageStoreError::Foreign { dir: self.segments.dir().into(), bytes });
        }
        Ok(())
    }

    fn check(&self) -> Result<(), PageStoreError> {
        if self.has_failed { Err(PageStoreError::Failed) } else { Ok(()) }
    }

    /// Closes the current segment for good and starts the next one.
    fn start_segment(&mut self) -> Result<(), PageStoreError> {
        let mut number = 1;
        if let Some(segment) = &self.current {
            self.has_failed = true;
            segment.seal()?;
            self.has_failed = false;
            number = segment.number + 1;
        }
        let path = self.segments.path(number);
        let started = self.create_segment(&path, number);
        if started.is_err() {
            // It would be cut off or overwritten later anyhow.
            let _ = fs::remove_file(&path);
        }
        self.current = Some(started?);
        Ok(())
    }

    fn create_segment(&mut self, path: &Path, number: u32) -> Result<Segment, PageStoreError> {
        let mut segment = Segment::create(path.into(), number)?;
        let member = self
            .warcinfo(number)
            .map_err(|source| PageStoreError::io("compress the head of", path, source))?;
        segment.append(&[member.into()])?;
        segment.sync()?;
        self.segments.sync_dir()?;
        Ok(segment)
    }

    fn warcinfo(&mut self, number: u32) -> io::Result<Vec<u8>> {
        let block = warcinfo_block(&[("isPartOf", self.segments.crawl())]);
        let id = RecordId::random(&mut self.rng);
        let head = Head::new(RecordType::Warcinfo, id, clock::wall_now())
            .field("WARC-Filename", self.segments.file_name(number))
            .field("Content-Type", "application/warc-fields")
            .finish(block.len());
        let mut member = Vec::new();
        let pieces = [head.as_bytes(), block.as_bytes(), RECORD_END];
        MemberWriter::gzip(6).write(&pieces, &mut member)?;
        Ok(member)
    }
}

/// Whether the bytes are as many as the lengths say, and a gzip member starts
/// where each should. What is in the members is the worker's to answer for.
fn are_members(records: &[Bytes], lengths: Lengths) -> bool {
    let Lengths { response, request, metadata } = lengths;
    let starts = [0, u64::from(response), u64::from(response) + u64::from(request)];
    let bytes: u64 = records.iter().map(|chunk| chunk.len() as u64).sum();
    bytes == lengths.total()
        && [response, request, metadata].into_iter().all(|length| length >= MEMBER_BYTES_MIN)
        && starts.into_iter().all(|start| {
            byte_at(records, start) == Some(0x1f) && byte_at(records, start + 1) == Some(0x8b)
        })
}

fn byte_at(chunks: &[Bytes], mut at: u64) -> Option<u8> {
    for chunk in chunks {
        match usize::try_from(at).ok().and_then(|at| chunk.get(at)) {
            Some(byte) => return Some(*byte),
            None => at -= chunk.len() as u64,
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests;
