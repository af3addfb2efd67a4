//! One page, read from where it is.
//!
//! Reads are positioned: any number of readers share a segment with each other
//! and with the writer.

use std::{
    borrow::Cow,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use trawl_shared::{
    page::PageMeta,
    warc::{Lengths, MemberError, RECORD_BYTES_MAX, Record, RecordType, WarcError, read_member},
};

use super::{Answer, Committed, Place, Segments, decode};

/// A page's records, where they are. Each is read when it is asked for.
#[derive(Debug)]
pub struct StoredPage {
    records: Records,
    /// Names the records in errors.
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Records {
    Segment(File),
    Memory(Vec<u8>),
}

/// A stored HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    /// Such as `HTTP/1.1 200 OK`.
    pub status_line: String,
    /// The headers in order, values as bytes.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body as received: transfer coding undone, content coding kept.
    pub payload: Vec<u8>,
}

/// Why a record could not be read, and where it stands.
#[derive(Debug, thiserror::Error)]
#[error("could not read the record at byte {offset} of {}", path.display())]
pub struct ReadError {
    /// The segment.
    pub path: PathBuf,
    /// Where the record's gzip member starts.
    pub offset: u64,
    /// What is wrong.
    pub source: RecordError,
}

/// What is wrong with a stored record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The segment could not be opened or read.
    #[error("the file could not be read")]
    Io(#[from] io::Error),
    /// It is not a gzip member.
    #[error("the gzip member is not whole")]
    Member(#[from] MemberError),
    /// The member has another length than its place says.
    #[error("the gzip member is {found} bytes long, not {said}")]
    Length {
        /// What the place says.
        said: u64,
        /// How long it is.
        found: u64,
    },
    /// It is not a WARC record.
    #[error("it is not a WARC record")]
    Warc(#[from] WarcError),
    /// It is another record than what stands there in a page.
    #[error("it is a {} record where a {} record should be", found.as_str(), wanted.as_str())]
    Type {
        /// What it is.
        found: RecordType,
        /// What it should be.
        wanted: RecordType,
    },
    /// The block of a response is not HTTP.
    #[error("it holds no HTTP answer")]
    Answer,
    /// The block of a metadata record is not ours.
    #[error("its metadata is not what trawl writes")]
    Meta(#[from] serde_json::Error),
    /// Its parts do not belong together.
    #[error("{0}")]
    Differs(&'static str),
    /// The payload cannot be decoded.
    #[error("its content coding cannot be undone")]
    Coding(#[source] io::Error),
}

impl RecordError {
    pub(crate) fn at(self, path: &Path, offset: u64) -> ReadError {
        ReadError { path: path.into(), offset, source: self }
    }
}

impl Segments {
    /// A segment, and how many bytes of it count. Of a closed one that is all: what
    /// it had was committed when it was closed.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(&self, number: u32, committed: Committed) -> Result<(File, u64), ReadError> {
        let path = self.path(number);
        let open = || {
            let file = File::open(&path)?;
            let is_last = number == committed.segment;
            let bytes = if is_last { committed.bytes } else { file.metadata()?.len() };
            Ok((file, bytes))
        };
        open().map_err(|error| RecordError::Io(error).at(&path, 0))
    }

    /// The page at `place`.
    ///
    /// # Errors
    /// If its segment cannot be opened.
    pub fn page(&self, place: Place) -> Result<StoredPage, ReadError> {
        let path = self.path(place.segment);
        match File::open(&path) {
            Ok(file) => Ok(StoredPage { records: Records::Segment(file), path, place }),
            Err(error) => Err(RecordError::Io(error).at(&path, place.offset)),
        }
    }
}

impl Records {
    fn read(&self, offset: u64, length: u32) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Self::Segment(file) => {
                let mut member = vec![0; length as usize];
                file.read_exact_at(&mut member, offset)?;
                Ok(member.into())
            }
            Self::Memory(bytes) => {
                let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
                let member = from.and_then(|bytes| bytes.get(..length as usize));
                Ok(member.ok_or(io::ErrorKind::UnexpectedEof)?.into())
            }
        }
    }
}

impl StoredPage {
    /// A page whose records came from elsewhere; `origin` names that in errors.
    pub fn received(records: Vec<u8>, lengths: Lengths, origin: &str) -> Self {
        let place = Place::new(0, 0, lengths);
        Self { records: Records::Memory(records), path: origin.into(), place }
    }

    /// What is known of the page besides its bytes. Only this is inflated.
    ///
    /// # Errors
    /// If the record is damaged.
    pub fn meta(&self) -> Result<PageMeta, ReadError> {
        let place = &self.place;
        self.record(place.metadata_at(), place.metadata_len, RecordType::Metadata, |record| {
            Ok(serde_json::from_slice(record.block)?)
        })
    }

    /// What the host answered, as received.
    ///
    /// # Errors
    /// If the record is damaged.
    pub fn response(&self) -> Result<StoredResponse, ReadError> {
        self.answer(|answer| Ok(StoredResponse::from(answer)))
    }

    /// The request line and headers that it answered.
    ///
    /// # Errors
    /// If the record is damaged.
    pub fn request(&self) -> Result<Vec<u8>, ReadError> {
        let place = &self.place;
        self.record(place.request_at(), place.request_len, RecordType::Request, |record| {
            Ok(record.block.to_vec())
        })
    }

    /// The body after content decoding, as it was parsed; `meta` is the page's.
    ///
    /// # Errors
    /// If the record is damaged, or the body is not in it.
    pub fn body(&self, meta: &PageMeta) -> Result<Vec<u8>, ReadError> {
        self.answer(|answer| {
            decode::body(&answer, meta).map(Cow::into_owned).map_err(RecordError::Coding)
        })
    }

    fn answer<T>(
        &self,
        take: impl FnOnce(Answer<'_>) -> Result<T, RecordError>,
    ) -> Result<T, ReadError> {
        let place = &self.place;
        self.record(place.offset, place.response_len, RecordType::Response, |record| {
            take(Answer::parse(record.block).ok_or(RecordError::Answer)?)
        })
    }

    fn record<T>(
        &self,
        offset: u64,
        length: u32,
        wanted: RecordType,
        take: impl FnOnce(Record<'_>) -> Result<T, RecordError>,
    ) -> Result<T, ReadError> {
        let read = || {
            let member = self.records.read(offset, length)?;
            let mut bytes = Vec::new();
            let found = read_member(&mut &member[..], RECORD_BYTES_MAX, &mut bytes)?;
            if found != u64::from(length) {
                return Err(RecordError::Length { said: length.into(), found });
            }
            let record = Record::parse(&bytes)?;
            if record.kind != wanted {
                return Err(RecordError::Type { found: record.kind, wanted });
            }
            take(record)
        };
        read().map_err(|error| error.at(&self.path, offset))
    }
}

impl From<Answer<'_>> for StoredResponse {
    fn from(answer: Answer<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            status_line: text(answer.status_line),
            headers: answer.headers().map(|(name, value)| (text(name), value.into())).collect(),
            payload: answer.payload.into(),
        }
    }
}
