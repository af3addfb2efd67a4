//! All pages of a crawl, in the order in which they were committed.
//!
//! Reads the segments member by member up to the committed length, so that
//! nothing but the files is needed, and checks on the way that they are what
//! they should be. Memory: one page.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Take},
    path::PathBuf,
};

use trawl_shared::{
    page::PageMeta,
    warc::{Lengths, MemberError, RECORD_BYTES_MAX, Record, RecordType, read_member},
};

use super::{Answer, Committed, Place, ReadError, RecordError, Segments, decode};

const BUFFER_BYTES: usize = 256 * 1024;

/// A pass over the pages of a crawl.
#[derive(Debug)]
pub struct Scan {
    segments: Segments,
    committed: Committed,
    /// The segment to open next.
    next: u32,
    reader: Option<Reader>,
    response: Vec<u8>,
    request: Vec<u8>,
    metadata: Vec<u8>,
}

/// A page as it stands in its segment.
#[derive(Clone, Copy, Debug)]
pub struct ScannedPage<'a> {
    /// Where it is.
    pub place: Place,
    /// What the host answered.
    pub response: Record<'a>,
    /// What it had been asked.
    pub request: Record<'a>,
    /// What is known besides.
    pub metadata: Record<'a>,
    segments: &'a Segments,
}

/// A segment, being read.
#[derive(Debug)]
struct Reader {
    number: u32,
    path: PathBuf,
    file: BufReader<Take<File>>,
    /// Where the next member starts.
    offset: u64,
    /// Bytes of the segment that count.
    bytes: u64,
}

impl Scan {
    /// A pass over what is committed of `segments`. Further pages may be appended
    /// meanwhile; they are not seen.
    pub fn new(segments: Segments, committed: Committed) -> Self {
        Self {
            segments,
            committed,
            next: 1,
            reader: None,
            response: Vec::new(),
            request: Vec::new(),
            metadata: Vec::new(),
        }
    }

    /// Goes on elsewhere: at a place where a page begins, or a segment ends. A place that is
    /// none is found when the next page is read.
    ///
    /// # Errors
    /// If the segment cannot be read.
    pub fn go_to(&mut self, segment: u32, offset: u64) -> Result<(), ReadError> {
        let is_there = (1..=self.committed.segment).contains(&segment);
        (self.reader, self.next) = (None, segment.max(1));
        if is_there {
            self.reader = Some(Reader::open(&self.segments, segment, offset, self.committed)?);
            self.next = segment.saturating_add(1);
        }
        Ok(())
    }

    /// Where it is: segment and byte, to go on there later.
    pub fn at(&self) -> (u32, u64) {
        self.reader.as_ref().map_or((self.next, 0), |reader| (reader.number, reader.offset))
    }

    /// The next page; none after the last one.
    ///
    /// # Errors
    /// If a record is damaged, missing, or longer than [`RECORD_BYTES_MAX`]. A
    /// scan does not go on after that: where the next page starts is not known.
    pub fn next_page(&mut self) -> Result<Option<ScannedPage<'_>>, ReadError> {
        match self.read_page()? {
            Some(place) => self.page(place).map(Some),
            None => Ok(None),
        }
    }

    /// Inflates the next page's three members.
    fn read_page(&mut self) -> Result<Option<Place>, ReadError> {
        while self.find_member()? {
            let Some(reader) = &mut self.reader else {
                break;
            };
            let offset = reader.offset;
            let response = reader.member(&mut self.response)?;
            let first = Record::parse(&self.response)
                .map_err(|error| RecordError::from(error).at(&reader.path, offset))?;
            if first.kind == RecordType::Warcinfo {
                continue;
            }
            let lengths = Lengths {
                response,
                request: reader.member(&mut self.request)?,
                metadata: reader.member(&mut self.metadata)?,
            };
            return Ok(Some(Place::new(reader.number, offset, lengths)));
        }
        Ok(None)
    }

    /// Whether there is another member; it may be in the next segment.
    fn find_member(&mut self) -> Result<bool, ReadError> {
        loop {
            if let Some(reader) = &mut self.reader
                && !reader.is_at_end()?
            {
                return Ok(true);
            }
            if self.next > self.committed.segment {
                self.reader = None;
                return Ok(false);
            }
            self.reader = Some(Reader::open(&self.segments, self.next, 0, self.committed)?);
            self.next += 1;
        }
    }

    fn page(&self, place: Place) -> Result<ScannedPage<'_>, ReadError> {
        let parse = |bytes, wanted, offset| {
            parse(bytes, wanted)
                .map_err(|error| error.at(&self.segments.path(place.segment), offset))
        };
        Ok(ScannedPage {
            place,
            response: parse(&self.response, RecordType::Response, place.offset)?,
            request: parse(&self.request, RecordType::Request, place.request_at())?,
            metadata: parse(&self.metadata, RecordType::Metadata, place.metadata_at())?,
            segments: &self.segments,
        })
    }
}

impl<'a> ScannedPage<'a> {
    /// The name of the file that the page is in.
    pub fn file_name(&self) -> String {
        self.segments.file_name(self.place.segment)
    }

    /// What is known of the page besides its bytes.
    ///
    /// # Errors
    /// If its metadata is not what trawl writes.
    pub fn meta(&self) -> Result<PageMeta, ReadError> {
        serde_json::from_slice(self.metadata.block).map_err(|error| self.error(error.into()))
    }

    /// What the host answered.
    ///
    /// # Errors
    /// If that is not HTTP.
    pub fn answer(&self) -> Result<Answer<'a>, ReadError> {
        Answer::parse(self.response.block).ok_or_else(|| self.error(RecordError::Answer))
    }

    /// The body after content decoding; `meta` is the page's.
    ///
    /// # Errors
    /// If it cannot be decoded.
    pub fn body(&self, meta: &PageMeta) -> Result<Cow<'a, [u8]>, ReadError> {
        decode::body(&self.answer()?, meta).map_err(|error| self.error(RecordError::Coding(error)))
    }

    fn error(&self, error: RecordError) -> ReadError {
        error.at(&self.segments.path(self.place.segment), self.place.offset)
    }
}

impl Reader {
    /// At a byte of a segment, or its end if it has fewer.
    fn open(
        segments: &Segments,
        number: u32,
        offset: u64,
        committed: Committed,
    ) -> Result<Self, ReadError> {
        let path = segments.path(number);
        let (mut file, bytes) = segments.open(number, committed)?;
        let offset = offset.min(bytes);
        if let Err(error) = file.seek(SeekFrom::Start(offset)) {
            return Err(RecordError::Io(error).at(&path, offset));
        }
        let file = BufReader::with_capacity(BUFFER_BYTES, file.take(bytes - offset));
        Ok(Self { number, path, file, offset, bytes })
    }

    fn is_at_end(&mut self) -> Result<bool, ReadError> {
        if self.offset == self.bytes {
            return Ok(true);
        }
        match self.file.fill_buf() {
            Ok([]) => Err(RecordError::from(MemberError::CutOff).at(&self.path, self.offset)),
            Ok(_) => Ok(false),
            Err(error) => Err(RecordError::Io(error).at(&self.path, self.offset)),
        }
    }

    /// Inflates the next member, and says how long it was.
    fn member(&mut self, out: &mut Vec<u8>) -> Result<u32, ReadError> {
        let read = read_member(&mut self.file, RECORD_BYTES_MAX, out).map_err(RecordError::from);
        let length = read.and_then(|found| {
            u32::try_from(found).map_err(|_| RecordError::Length { said: u32::MAX.into(), found })
        });
        let length = length.map_err(|error| error.at(&self.path, self.offset))?;
        self.offset += u64::from(length);
        Ok(length)
    }
}

fn parse(bytes: &[u8], wanted: RecordType) -> Result<Record<'_>, RecordError> {
    let record = Record::parse(bytes)?;
    if record.kind != wanted {
        return Err(RecordError::Type { found: record.kind, wanted });
    }
    Ok(record)
}
