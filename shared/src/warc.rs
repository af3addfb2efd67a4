//! WARC/1.1: how a page's records are framed, compressed and read back.
//!
//! One record is one gzip member, so that each can be read on its own and files
//! can be cut and joined between any two. Writing copies no body and computes no
//! digest: the caller has both already. Reading is strict and takes any bytes
//! without panicking. What goes into a page's records is `worker::record`'s to
//! say, and where they are kept is `master::pages`'s.
//!
//! The framing is ours, although `fastwarc` exists, because that wants to own
//! the body in a `Vec` of the whole block and brings ten crates along (among
//! them a second zstd and an unmaintained `encoding`).

use std::{
    fmt::{self, Display, Write as _},
    hash::{BuildHasher, RandomState},
    io::{self, BufRead},
};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use jiff::Timestamp;

use crate::spec::BODY_LIMIT_MAX;

/// Bytes of one record at most, uncompressed: twice the largest body that a
/// crawl may keep. A record that inflates to more is refused.
pub const RECORD_BYTES_MAX: u64 = 2 * BODY_LIMIT_MAX.as_bytes();

/// What ends every record, after its block.
pub const RECORD_END: &[u8] = b"\r\n\r\n";

const VERSION: &str = "WARC/1.1";

/// How much room a (de)compressor is given at least.
const ROOM: usize = 8 * 1024;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    /// About the file: the software that wrote it.
    Warcinfo,
    /// What a host answered.
    Response,
    /// What it had been asked.
    Request,
    /// What we know of the page besides.
    Metadata,
    /// An answer whose payload is stored elsewhere.
    Revisit,
}

/// A record's name: a random UUID (version 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordId(u128);

/// A record's header, being written.
#[derive(Debug)]
pub struct Head(String);

/// Lengths in bytes of a page's three gzip members, in the order in which they
/// stand in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// The response record's.
    pub response: u32,
    /// The request record's.
    pub request: u32,
    /// The metadata record's.
    pub metadata: u32,
}

/// Compresses pieces of bytes to one stream each, with the same state: that is
/// 300 KB, and clearing it costs far less than making it.
#[derive(Debug)]
pub struct MemberWriter(Compress);

/// One record, read.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What it is.
    pub kind: RecordType,
    /// Its content.
    pub block: &'a [u8],
    fields: &'a str,
}

/// Why bytes are not a WARC record as trawl writes them.
#[derive(Debug, thiserror::Error)]
pub enum WarcError {
    /// It starts otherwise.
    #[error("it does not start with {VERSION}")]
    Version,
    /// No empty line.
    #[error("its header does not end")]
    HeadEnd,
    /// Other bytes than UTF-8.
    #[error("its header is not text")]
    HeadText,
    /// A line without a name and a colon.
    #[error("line {0} of its header is not a field")]
    Field(usize),
    /// A mandatory field is absent, or there twice.
    #[error("its header has not exactly one {0}")]
    Mandatory(&'static str),
    /// Another type.
    #[error("its type {0:?} is unknown")]
    Type(String),
    /// Not a number.
    #[error("its Content-Length is not a number")]
    LengthNumber,
    /// Too little or too much.
    #[error("its Content-Length is {said}, but {found} bytes follow its header")]
    Length {
        /// What the header says.
        said: u64,
        /// How much there is, the end mark not counted.
        found: u64,
    },
    /// Something else than two empty lines.
    #[error("it does not end with two empty lines")]
    End,
}

/// Why a gzip member could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The file could not be read.
    #[error("it could not be read")]
    Io(#[from] io::Error),
    /// The file ends within it.
    #[error("it is cut off")]
    CutOff,
    /// Not gzip, or a wrong checksum.
    #[error("it is damaged")]
    Damaged(#[source] flate2::DecompressError),
    /// It inflates to more than is allowed.
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
}

/// A random source for record ids, seeded by the operating system.
pub fn seeded_rng() -> fastrand::Rng {
    // A simulation's chance comes from its seed alone.
    #[cfg(feature = "sabotage")]
    if crate::clock::by_hand::get().is_some() {
        return fastrand::Rng::with_seed(fastrand::u64(..));
    }
    // The one thing in std that asks the system for random bits.
    fastrand::Rng::with_seed(RandomState::new().hash_one(0))
}

/// A SHA-1 digest in lower-case hex, as `sha1sum` prints it.
pub fn sha1_hex(digest: &[u8; 20]) -> String {
    data_encoding::HEXLOWER.encode(digest)
}

/// A SHA-1 digest in base 32, as WARC files carry it after `sha1:`.
pub fn sha1_base32(digest: &[u8; 20]) -> String {
    data_encoding::BASE32.encode(digest)
}

impl RecordType {
    /// Its name in WARC-Type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warcinfo => "warcinfo",
            Self::Response => "response",
            Self::Request => "request",
            Self::Metadata => "metadata",
            Self::Revisit => "revisit",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Warcinfo, Self::Response, Self::Request, Self::Metadata, Self::Revisit]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

impl RecordId {
    /// A new id.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        let version = 4 << 76;
        let variant = 0b10 << 62;
        Self(rng.u128(..) & !(0xf << 76) & !(0b11 << 62) | version | variant)
    }
}

impl Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        write!(f, "<urn:uuid:{a}-{b}-{c}-{d}-{e}>")
    }
}

impl Head {
    /// The header of a record with the fields that every record has.
    pub fn new(kind: RecordType, id: RecordId, date: Timestamp) -> Self {
        let mut text = String::with_capacity(512);
        text.push_str(VERSION);
        text.push_str("\r\n");
        Self(text)
            .field("WARC-Type", kind.as_str())
            .field("WARC-Record-ID", id)
            .field("WARC-Date", format_args!("{date:.3}"))
    }

    /// Adds a field. Control characters in its value become spaces, so that no
    /// value can end its line.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Display) -> Self {
        self.0.push_str(name);
        self.0.push_str(": ");
        let start = self.0.len();
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{value}");
        if self.0[start..].contains(char::is_control) {
            let value = self.0[start..].replace(char::is_control, " ");
            self.0.replace_range(start.., &value);
        }
        self.0.push_str("\r\n");
        self
    }

    /// The whole header, for a block of so many bytes. Block and [`RECORD_END`]
    /// follow it.
    #[must_use]
    pub fn finish(self, block_bytes: usize) -> String {
        let mut text = self.field("Content-Length", block_bytes).0;
        text.push_str("\r\n");
        text
    }
}

impl Lengths {
    /// Of all three.
    pub fn total(&self) -> u64 {
        u64::from(self.response) + u64::from(self.request) + u64::from(self.metadata)
    }
}

/// The block of a warcinfo record: who wrote the file, and by which rules.
/// `fields` are added to those that every file has.
pub fn warcinfo_block(fields: &[(&str, &str)]) -> String {
    let software = format!("trawl/{}", crate::VERSION);
    let format = "WARC File Format 1.1";
    let rules = "http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/";
    let head = Head(String::new())
        .field("software", software)
        .field("format", format)
        .field("conformsTo", rules);
    fields.iter().fold(head, |head, (name, value)| head.field(name, value)).0
}

impl MemberWriter {
    /// Writes gzip members of a level from 0 (stored) to 9 (smallest).
    pub fn gzip(level: u32) -> Self {
        Self(Compress::new_gzip(Compression::new(level.min(9)), 15))
    }

    /// Writes zlib streams.
    pub fn zlib(level: u32) -> Self {
        Self(Compress::new(Compression::new(level.min(9)), true))
    }

    /// Appends the pieces to `out` as one member, and says how long it is.
    ///
    /// # Errors
    /// None that deflate is known to have; `out` then ends with half a member.
    pub fn write(&mut self, pieces: &[&[u8]], out: &mut Vec<u8>) -> io::Result<usize> {
        let start = out.len();
        self.0.reset();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                out.reserve(ROOM);
                let before = self.0.total_in();
                self.0.compress_vec(rest, out, FlushCompress::None)?;
                let taken = usize::try_from(self.0.total_in() - before).unwrap_or(rest.len());
                rest = &rest[taken..];
            }
        }
        loop {
            out.reserve(ROOM);
            if self.0.compress_vec(&[], out, FlushCompress::Finish)? == Status::StreamEnd {
                return Ok(out.len() - start);
            }
        }
    }
}

/// Reads the gzip member at the front of `input` into `out`, which is cleared
/// first, and says how many compressed bytes it took.
///
/// # Errors
/// If it is cut off, damaged, or inflates to more than `bytes_max`.
pub fn read_member(
    input: &mut impl BufRead,
    bytes_max: u64,
    out: &mut Vec<u8>,
) -> Result<u64, MemberError> {
    let mut inflate = Decompress::new_gzip(15);
    out.clear();
    loop {
        let compressed = input.fill_buf()?;
        let at_end = compressed.is_empty();
        out.reserve(ROOM);
        let (taken, given) = (inflate.total_in(), inflate.total_out());
        let status = inflate
            .decompress_vec(compressed, out, FlushDecompress::None)
            .map_err(MemberError::Damaged)?;
        let taken = usize::try_from(inflate.total_in() - taken).unwrap_or(compressed.len());
        input.consume(taken);
        if inflate.total_out() > bytes_max {
            return Err(MemberError::TooLong(bytes_max));
        }
        if status == Status::StreamEnd {
            return Ok(inflate.total_in());
        }
        if at_end && inflate.total_out() == given {
            return Err(MemberError::CutOff);
        }
    }
}

/// Bytes at the front of a gzip member that [`peek`] looks at: enough for the header of
/// any record of ours.
pub const PEEK_BYTES: usize = 4 * 1024;

/// What a record is and which URL it is about, by the front of its gzip member. Its
/// block and its checksum are not looked at.
pub fn peek(member: &[u8]) -> Option<(RecordType, String)> {
    let mut front = Vec::with_capacity(PEEK_BYTES);
    let member = member.get(..PEEK_BYTES).unwrap_or(member);
    Decompress::new_gzip(15).decompress_vec(member, &mut front, FlushDecompress::None).ok()?;
    let rest = front.strip_prefix(VERSION.as_bytes())?.strip_prefix(b"\r\n")?;
    let fields = str::from_utf8(split_head(rest)?.0).ok()?;
    check_fields(fields).ok()?;
    let kind = RecordType::parse(one(fields, "WARC-Type").ok()?)?;
    Some((kind, one(fields, "WARC-Target-URI").ok()?.to_owned()))
}

impl<'a> Record<'a> {
    /// Reads one whole record.
    ///
    /// # Errors
    /// If the bytes are anything but one WARC/1.1 record.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WarcError> {
        let rest = bytes
            .strip_prefix(VERSION.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"\r\n"))
            .ok_or(WarcError::Version)?;
        let (head, body) = split_head(rest).ok_or(WarcError::HeadEnd)?;
        let fields = str::from_utf8(head).map_err(|_| WarcError::HeadText)?;
        check_fields(fields)?;

        let kind = one(fields, "WARC-Type")?;
        let kind = RecordType::parse(kind).ok_or_else(|| WarcError::Type(kind.into()))?;
        one(fields, "WARC-Record-ID")?;
        one(fields, "WARC-Date")?;
        let said = one(fields, "Content-Length")?;
        let said: u64 = said.parse().map_err(|_| WarcError::LengthNumber)?;
        let block = body.strip_suffix(RECORD_END).ok_or(WarcError::End)?;
        if block.len() as u64 != said {
            return Err(WarcError::Length { said, found: block.len() as u64 });
        }
        Ok(Self { kind, block, fields })
    }

    /// A header field's value; names know no case.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        values(self.fields, name).next()
    }
}

/// The lines before the first empty one, and what follows it.
pub fn split_head(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(rest) = bytes.strip_prefix(b"\r\n") {
        return Some((&[], rest));
    }
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((&bytes[..end], &bytes[end + 4..]))
}

fn check_fields(fields: &str) -> Result<(), WarcError> {
    for (index, line) in fields.split("\r\n").enumerate() {
        let name = line.split_once(':').map(|(name, _)| name);
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !name.is_some_and(is_name) || line.contains(['\r', '\n']) {
            return Err(WarcError::Field(index + 2));
        }
    }
    Ok(())
}

fn values<'a>(fields: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    fields
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn one<'a>(fields: &'a str, name: &'static str) -> Result<&'a str, WarcError> {
    let mut values = values(fields, name);
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(WarcError::Mandatory(name)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn date() -> Timestamp {
        "2026-11-23T12:00:00.0079Z".parse().unwrap()
    }

    fn record(block: &[u8]) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(1);
        let head = Head::new(RecordType::Metadata, RecordId::random(&mut rng), date())
            .field("WARC-Target-URI", "http://example.org/")
            .finish(block.len());
        [head.as_bytes(), block, RECORD_END].concat()
    }

    #[test]
    fn a_record_as_it_stands_in_the_file() {
        let text = String::from_utf8(record(b"{}")).unwrap();
        let id = text.split('<').nth(1).unwrap().split('>').next().unwrap();
        assert_eq!(
            text,
            format!(
                "WARC/1.1\r\nWARC-Type: metadata\r\nWARC-Record-ID: <{id}>\r\n\
                 WARC-Date: 2026-11-23T12:00:00.007Z\r\n\
                 WARC-Target-URI: http://example.org/\r\nContent-Length: 2\r\n\r\n{{}}\r\n\r\n"
            )
        );
    }

    #[test]
    fn a_record_reads_back() {
        let bytes = record(b"any\r\n\r\nbytes\xff");
        let record = Record::parse(&bytes).unwrap();
        assert_eq!(record.kind, RecordType::Metadata);
        assert_eq!(record.block, b"any\r\n\r\nbytes\xff");
        assert_eq!(record.field("warc-target-uri"), Some("http://example.org/"));
        assert_eq!(record.field("WARC-Nothing"), None);
    }

    #[test]
    fn the_front_of_a_member_tells_what_the_record_is() {
        let mut writer = MemberWriter::gzip(1);
        let mut member = Vec::new();
        let large = record(&b"block ".repeat(100_000));
        writer.write(&[&large], &mut member).unwrap();
        let told = Some((RecordType::Metadata, "http://example.org/".to_owned()));
        assert_eq!(peek(&member), told);
        assert_eq!(peek(&member[..PEEK_BYTES.min(member.len())]), told);
        assert_eq!(peek(&member[..20]), None);
        for other in [&b"hello"[..], b"", b"WARC/1.1\r\nWARC-Type: metadata\r\n\r\n"] {
            member.clear();
            writer.write(&[other], &mut member).unwrap();
            assert_eq!(peek(&member), None);
        }
        assert_eq!(peek(b"no gzip at all"), None);
    }

    #[test]
    fn an_id_is_a_random_uuid() {
        let mut rng = seeded_rng();
        for _ in 0..1000 {
            let id = RecordId::random(&mut rng).to_string();
            assert_eq!(id.len(), "<urn:uuid:00000000-0000-4000-8000-000000000000>".len());
            assert_eq!(&id[24..25], "4", "{id}");
            assert!("89ab".contains(&id[29..30]), "{id}");
        }
        assert_ne!(RecordId::random(&mut seeded_rng()), RecordId::random(&mut seeded_rng()));
    }

    #[test]
    fn no_value_can_end_its_line() {
        let head = Head(String::new()).field("a", "b\r\nWARC-Type: response\u{85}").0;
        assert_eq!(head, "a: b  WARC-Type: response \r\n");
    }

    #[test]
    fn what_is_no_record_says_why() {
        let good = String::from_utf8(record(b"{}")).unwrap();
        let error = |bytes: &str| Record::parse(bytes.as_bytes()).unwrap_err().to_string();
        for (broken, why) in [
            (String::new(), "does not start with"),
            (good.replace("WARC/1.1", "WARC/1.0"), "does not start with"),
            (good.replace("\r\n\r\n", "\r\n"), "does not end"),
            (good.replace("WARC-Date: ", "WARC-Date "), "is not a field"),
            (good.replace("WARC-Date: ", "\tWARC-Date: "), "line 4 of its header"),
            (good.replace("WARC-Date", "WARC-Data"), "one WARC-Date"),
            (good.replace("Target-URI", "Date"), "one WARC-Date"),
            (good.replace("metadata", "meta"), "\"meta\" is unknown"),
            (good.replace("Length: 2", "Length: two"), "not a number"),
            (good.replace("Length: 2", "Length: 3"), "is 3, but 2 bytes"),
            (good.replace("Length: 2", "Length: 18446744073709551615"), "but 2 bytes"),
            (good.replace("{}\r\n", "{}"), "two empty lines"),
            (format!("{good}x"), "two empty lines"),
            (format!("{good}{good}"), "but"),
        ] {
            assert!(error(&broken).contains(why), "{}: {broken}", error(&broken));
        }
    }

    #[test]
    fn garbage_never_panics() {
        let mut rng = fastrand::Rng::with_seed(7);
        let good = record(b"{\"a\": 1}");
        let mut out = Vec::new();
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                match rng.u8(..4) {
                    0 => bytes[at] = rng.u8(..),
                    1 => bytes.truncate(at.max(1)),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"\r\n:\xff"[rng.usize(..4)]),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            let _ = Record::parse(&bytes);
            let _ = read_member(&mut &bytes[..], 1 << 20, &mut out);
        }
    }

    #[test]
    fn members_are_what_gzip_reads_and_come_back_one_by_one() {
        let mut rng = fastrand::Rng::with_seed(3);
        let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(300_000).collect();
        let text = b"the same again ".repeat(40_000);
        for level in [0, 1, 6, 9] {
            let mut writer = MemberWriter::gzip(level);
            let mut file = Vec::new();
            let members: [&[&[u8]]; 5] =
                [&[b"a", b"", b"bc"], &[], &[&noise], &[&text, &noise[..9]], &[b"\0"]];
            let lengths: Vec<usize> =
                members.iter().map(|m| writer.write(m, &mut file).unwrap()).collect();
            assert_eq!(lengths.iter().sum::<usize>(), file.len());

            let mut whole = Vec::new();
            flate2::read::MultiGzDecoder::new(&file[..]).read_to_end(&mut whole).unwrap();
            assert!(whole == members.map(<[_]>::concat).concat());

            let (mut rest, mut out) = (&file[..], Vec::new());
            for (member, length) in members.iter().zip(lengths) {
                let taken = read_member(&mut rest, 1 << 20, &mut out).unwrap();
                assert_eq!(taken, length as u64);
                assert!(out == member.concat());
            }
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_member_can_be_cut_off_damaged_or_too_long() {
        let mut file = Vec::new();
        MemberWriter::gzip(1).write(&[&[b'x'; 5000]], &mut file).unwrap();
        let mut out = Vec::new();
        for end in 0..file.len() {
            let error = read_member(&mut &file[..end], 5000, &mut out).unwrap_err();
            assert!(matches!(error, MemberError::CutOff), "{end}: {error}");
        }
        let error = read_member(&mut &file[..], 4999, &mut out).unwrap_err();
        assert!(matches!(error, MemberError::TooLong(4999)));
        let crc = file.len() - 8;
        file[crc] ^= 1;
        let error = read_member(&mut &file[..], 5000, &mut out).unwrap_err();
        assert!(matches!(error, MemberError::Damaged(_)));
    }

    #[test]
    fn a_bomb_is_stopped_at_its_limit() {
        let mut bomb = Vec::new();
        MemberWriter::gzip(9).write(&[&vec![0; 64 << 20]], &mut bomb).unwrap();
        let mut out = Vec::new();
        assert!(read_member(&mut &bomb[..], 1 << 20, &mut out).is_err());
        assert!(out.capacity() < 4 << 20);
    }

    #[test]
    fn zlib_streams_are_what_zlib_reads() {
        let mut out = Vec::new();
        MemberWriter::zlib(6).write(&[b"ab", b"c"], &mut out).unwrap();
        let mut text = String::new();
        flate2::read::ZlibDecoder::new(&out[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }
}
