//! All that lies in a crawl's segments, whole or not.
//!
//! Unlike a scan it goes on after damage: it looks for the next record that a page
//! may begin with, and tells what lay between. Memory: one page.

use std::{
    fs::File,
    io::{self, BufRead, Read},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use sha1::{Digest, Sha1};
use trawl_shared::{
    page::PageMeta,
    url::UrlId,
    warc::{
        Lengths, MemberError, RECORD_BYTES_MAX, Record, RecordType, read_member, sha1_base32,
        sha1_hex,
    },
};

use super::{Answer, Committed, PageStoreError, Place, RecordError, Segments, decode};

const BUFFER_BYTES: usize = 256 * 1024;

/// What every gzip member of ours begins with.
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// A pass over everything in a crawl's segments.
#[derive(Debug)]
pub struct Survey {
    segments: Segments,
    committed: Committed,
    next: u32,
    window: Option<Window>,
    response: Vec<u8>,
    request: Vec<u8>,
    metadata: Vec<u8>,
}

/// Something found in a segment.
#[derive(Debug)]
pub enum Find {
    /// A page: three whole records that belong together.
    Page(Box<FoundPage>),
    /// A record about the segment.
    Head {
        /// The segment.
        segment: u32,
        /// Its first byte.
        from: u64,
        /// The byte after its last.
        to: u64,
    },
    /// Bytes that are no page.
    Damage {
        /// The segment.
        segment: u32,
        /// The first of them.
        from: u64,
        /// The byte after the last.
        to: u64,
        /// What is wrong with them.
        why: String,
    },
    /// A committed segment is not there.
    Missing {
        /// The segment.
        segment: u32,
    },
    /// The last segment ends before what was committed.
    Short {
        /// The segment.
        segment: u32,
        /// Bytes that it has.
        bytes: u64,
    },
}

/// A page as it was found.
#[derive(Clone, Debug)]
pub struct FoundPage {
    /// Where it is.
    pub place: Place,
    /// What is known of it besides its bytes.
    pub meta: PageMeta,
    /// The SHA-1 of its URL.
    pub id: UrlId,
    /// The SHA-1 of its body, as its metadata says it.
    pub sha1: [u8; 20],
}

impl Survey {
    /// A pass over what is committed.
    pub fn new(segments: Segments, committed: Committed) -> Self {
        Self {
            segments,
            committed,
            next: 1,
            window: None,
            response: Vec::new(),
            request: Vec::new(),
            metadata: Vec::new(),
        }
    }

    /// A pass over all that is there, committed or not.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn of_all(segments: Segments, committed: Committed) -> Result<Self, PageStoreError> {
        let found = if segments.dir().exists() { segments.list()? } else { Default::default() };
        let last = found.keys().next_back().copied().unwrap_or_default();
        let committed = if last >= committed.segment {
            Committed { segment: last, bytes: found.get(&last).copied().unwrap_or_default() }
        } else {
            committed
        };
        Ok(Self::new(segments, committed))
    }

    /// Where it ends.
    pub fn reach(&self) -> Committed {
        self.committed
    }

    /// The next thing; none at the end.
    ///
    /// # Errors
    /// If the system does not let it read.
    pub fn next_find(&mut self) -> Result<Option<Find>, PageStoreError> {
        loop {
            let Some(window) = self.window.as_mut().filter(|window| window.at < window.end) else {
                if self.next > self.committed.segment {
                    return Ok(None);
                }
                if let Some(find) = self.open_next()? {
                    return Ok(Some(find));
                }
                continue;
            };
            let (segment, from) = (window.number, window.at);
            return match self.unit() {
                Ok(find) => Ok(Some(find)),
                Err(RecordError::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                    Err(PageStoreError::io("read", &self.segments.path(segment), error))
                }
                Err(error) => {
                    // What is whole until the file ends is one thing: what looks like a page
                    // within it is a part of somebody's body.
                    let is_cut_off = matches!(error, RecordError::Member(MemberError::CutOff));
                    let to = if is_cut_off { self.skip_rest() } else { self.resume(from + 1)? };
                    Ok(Some(Find::Damage { segment, from, to, why: told(&error) }))
                }
            };
        }
    }

    /// Opens the next segment. Something is found if it is not there, or too short.
    fn open_next(&mut self) -> Result<Option<Find>, PageStoreError> {
        let number = self.next;
        self.next += 1;
        self.window = None;
        let path = self.segments.path(number);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(Find::Missing { segment: number }));
            }
            Err(error) => return Err(PageStoreError::io("open", &path, error)),
        };
        let is_last = number == self.committed.segment;
        let end = if is_last { bytes.min(self.committed.bytes) } else { bytes };
        self.window = Some(Window { number, path, file, at: 0, end, buffer: Vec::new(), read: 0 });
        if is_last && bytes < self.committed.bytes {
            return Ok(Some(Find::Short { segment: number, bytes }));
        }
        Ok(None)
    }

    /// Reads a page, or a segment's head. After an error the window is anywhere.
    fn unit(&mut self) -> Result<Find, RecordError> {
        let window = self.window.as_mut();
        let window = window.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let (segment, from) = (window.number, window.at);
        let response = window.member(&mut self.response)?;
        let first = Record::parse(&self.response)?;
        if first.kind == RecordType::Warcinfo {
            return Ok(Find::Head { segment, from, to: window.at });
        }
        expect(&first, RecordType::Response)?;
        let lengths = Lengths {
            response,
            request: window.member(&mut self.request)?,
            metadata: window.member(&mut self.metadata)?,
        };
        let request = Record::parse(&self.request)?;
        expect(&request, RecordType::Request)?;
        let metadata = Record::parse(&self.metadata)?;
        expect(&metadata, RecordType::Metadata)?;
        let place = Place::new(segment, from, lengths);
        let meta: PageMeta = serde_json::from_slice(metadata.block)?;
        check_digests(&first, &meta)?;
        let uri = [&first, &request, &metadata].map(|record| record.field("WARC-Target-URI"));
        let sha1 = data_encoding::HEXLOWER.decode(meta.sha1.as_bytes()).ok();
        let sha1 = sha1.and_then(|sha1| <[u8; 20]>::try_from(sha1).ok());
        let sha1 = sha1.ok_or(RecordError::Differs("its SHA-1 is none"))?;
        if uri != [Some(meta.url.as_str()); 3] {
            return Err(RecordError::Differs("its records are not of one URL"));
        }
        let id = UrlId::of(&meta.url);
        Ok(Find::Page(Box::new(FoundPage { place, meta, id, sha1 })))
    }

    /// Leaves out the rest of the segment. Returns its end.
    fn skip_rest(&mut self) -> u64 {
        let Some(window) = &mut self.window else { return 0 };
        window.go_to(window.end);
        window.end
    }

    /// Where something begins that may be a page's, or the segment's end.
    fn resume(&mut self, from: u64) -> Result<u64, PageStoreError> {
        let Some(window) = &mut self.window else { return Ok(from) };
        let mut at = from;
        loop {
            window.go_to(at);
            let Some(candidate) = window
                .find_magic()
                .map_err(|error| PageStoreError::io("read", &window.path, error))?
            else {
                window.go_to(window.end);
                return Ok(window.end);
            };
            window.go_to(candidate);
            let is_first = window.member(&mut self.response).is_ok()
                && Record::parse(&self.response).is_ok_and(|record| {
                    matches!(record.kind, RecordType::Response | RecordType::Warcinfo)
                });
            if is_first {
                window.go_to(candidate);
                return Ok(candidate);
            }
            at = candidate + 1;
        }
    }
}

/// Whether the payload is the one that the digests are of: as received, and decoded.
fn check_digests(response: &Record<'_>, meta: &PageMeta) -> Result<(), RecordError> {
    let answer = Answer::parse(response.block).ok_or(RecordError::Answer)?;
    let wire = format!("sha1:{}", sha1_base32(&Sha1::digest(answer.payload).into()));
    if response.field("WARC-Payload-Digest") != Some(wire.as_str()) {
        return Err(RecordError::Differs("its payload is not the one of its digest"));
    }
    let body = decode::body(&answer, meta).map_err(RecordError::Coding)?;
    // Of a coding that broke off, the worker may have seen a few bytes more.
    let is_comparable = meta.truncated.is_none() || body.len() as u64 == meta.bytes;
    if is_comparable && sha1_hex(&Sha1::digest(&body).into()) != meta.sha1 {
        return Err(RecordError::Differs("its body is not the one of its SHA-1"));
    }
    Ok(())
}

fn expect(record: &Record<'_>, wanted: RecordType) -> Result<(), RecordError> {
    if record.kind == wanted {
        Ok(())
    } else {
        Err(RecordError::Type { found: record.kind, wanted })
    }
}

fn told(error: &RecordError) -> String {
    use std::error::Error;
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// A segment, being read here and there.
#[derive(Debug)]
struct Window {
    number: u32,
    path: PathBuf,
    file: File,
    /// Where the next byte is read.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// How much of the buffer was read.
    read: usize,
}

impl Window {
    fn go_to(&mut self, at: u64) {
        self.at = at;
        self.buffer.clear();
        self.read = 0;
    }

    fn member(&mut self, out: &mut Vec<u8>) -> Result<u32, RecordError> {
        let found = read_member(self, RECORD_BYTES_MAX, out)?;
        u32::try_from(found).map_err(|_| RecordError::Length { said: u32::MAX.into(), found })
    }

    /// Where the next bytes are that a member may begin with.
    fn find_magic(&mut self) -> io::Result<Option<u64>> {
        loop {
            let at = self.at;
            let bytes = self.fill_buf()?;
            if bytes.len() < MAGIC.len() {
                return Ok(None);
            }
            if let Some(found) = bytes.windows(MAGIC.len()).position(|bytes| bytes == MAGIC) {
                return Ok(Some(at + found as u64));
            }
            // The last bytes may be its beginning.
            let next = at + (bytes.len() - MAGIC.len() + 1) as u64;
            self.go_to(next);
        }
    }
}

impl Read for Window {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(out.len());
        out[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Window {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read == self.buffer.len() {
            let room = (self.end - self.at.min(self.end)).min(BUFFER_BYTES as u64);
            self.buffer.resize(room as usize, 0);
            self.read = 0;
            let count = self.file.read_at(&mut self.buffer, self.at)?;
            self.buffer.truncate(count);
        }
        Ok(&self.buffer[self.read..])
    }

    fn consume(&mut self, count: usize) {
        self.read += count;
        self.at += count as u64;
    }
}
