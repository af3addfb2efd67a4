//! Content codings, undone while the bytes come in.
//!
//! What comes out is counted and cut, so that no input makes more than it may,
//! whatever it claims to be. One coding is undone; a body with several, or with
//! one that is unknown, stays as it is. Garbage after the end of a coded stream
//! is ignored, as browsers do.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use http::{HeaderMap, header::CONTENT_ENCODING};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation as _, OutBuffer};

/// Bytes that may come out whatever went in; beyond, [`RATIO_MAX`] holds.
const RATIO_FREE: usize = 1024 * 1024;

/// Bytes that may come out for each byte that went in. Text comes to 100 at
/// most; only bombs go beyond.
const RATIO_MAX: usize = 200;

/// Bytes of room that a decoder is given at least.
const ROOM: usize = 16 * 1024;

/// Bytes of a file that are decoded between two questions whether it is late.
const PIECE: usize = 4 * 1024;

/// Gzip members of one body at most. Each needs a new decoder, so a body of
/// nothing but empty members would cost more than its bytes do.
const MEMBERS_MAX: u32 = 4096;

/// The largest zstd window: 8 MiB, which is what RFC 9659 asks of HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The content coding of a body, as far as we undo it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// Why decoding ends before its input does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// More would come out than may.
    Full,
    /// The input is not what its coding says.
    Broken,
}

/// A coding being undone.
pub(super) enum Decoder {
    Gzip(Gzip),
    Deflate(Deflate),
    Brotli(Box<Brotli>),
    Zstd(Zstd),
}

/// What came out so far, and how much may.
#[derive(Debug)]
pub(super) struct Decoded {
    bytes: Vec<u8>,
    limit: usize,
    /// Bytes that went in so far.
    fed: usize,
}

impl Coding {
    /// The one coding that a response names; nothing if there is none, and
    /// nothing if there are several or it is unknown, which leaves the body as it
    /// is.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut names = headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"));
        let name = names.next().filter(|_| names.next().is_none())?;
        let known: [(&[u8], Self); 5] = [
            (b"gzip", Self::Gzip),
            (b"x-gzip", Self::Gzip),
            (b"deflate", Self::Deflate),
            (b"br", Self::Brotli),
            (b"zstd", Self::Zstd),
        ];
        known
            .into_iter()
            .find(|(word, _)| name.eq_ignore_ascii_case(word))
            .map(|(_, coding)| coding)
    }
}

/// What comes out of the `chunks` of a body sent with `headers`, `limit` bytes at most, and whether
/// that is a whole body. None if it has no coding that is undone.
pub fn undone<'a>(
    headers: &HeaderMap,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    limit: usize,
) -> Option<(Vec<u8>, bool)> {
    let mut decoder = Decoder::new(Coding::of(headers)?);
    let mut out = Decoded::new(0, limit);
    let read = chunks.into_iter().try_for_each(|chunk| decoder.write(chunk, &mut out));
    Some((out.into_bytes(), read.is_ok() && decoder.is_whole()))
}

/// What comes out of a file that is compressed by gzip, `limit` bytes at most and as much as
/// came before it `is_late`, and whether that is all of it.
pub(crate) fn gunzipped(file: &[u8], limit: usize, is_late: &dyn Fn() -> bool) -> (Vec<u8>, bool) {
    let mut decoder = Decoder::new(Coding::Gzip);
    let mut out = Decoded::new(0, limit);
    let read = file.chunks(PIECE).all(|piece| decoder.write(piece, &mut out).is_ok() && !is_late());
    // What came of the piece that went too far is cut there, too.
    out.bytes.truncate(limit);
    (out.into_bytes(), read && decoder.is_whole())
}

impl Decoder {
    pub(super) fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip => Self::Gzip(Gzip::new()),
            Coding::Deflate => Self::Deflate(Deflate::default()),
            Coding::Brotli => Self::Brotli(Box::new(Brotli::new())),
            Coding::Zstd => Self::Zstd(Zstd::new()),
        }
    }

    /// Decodes the next bytes of the body.
    pub(super) fn write(&mut self, input: &[u8], out: &mut Decoded) -> Result<(), Stop> {
        out.fed += input.len();
        match self {
            Self::Gzip(gzip) => gzip.write(input, out),
            Self::Deflate(deflate) => deflate.write(input, out),
            Self::Brotli(brotli) => brotli.write(input, out),
            Self::Zstd(zstd) => zstd.write(input, out),
        }?;
        out.check()
    }

    /// Whether a body may end here.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Gzip(gzip) => !gzip.is_within_member,
            Self::Deflate(deflate) => matches!(deflate, Deflate::Empty | Deflate::Done),
            Self::Brotli(brotli) => brotli.is_done || !brotli.is_begun,
            Self::Zstd(zstd) => !zstd.is_within_frame,
        }
    }
}

impl Decoded {
    /// Nothing yet, with room for `expected` bytes, and `limit` at most.
    pub(super) fn new(expected: usize, limit: usize) -> Self {
        // One byte more than may come out shows that there is more to come.
        let bytes = Vec::with_capacity(expected.max(ROOM).min(limit.saturating_add(1)));
        Self { bytes, limit, fed: 0 }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether what came out is still within what may.
    fn check(&mut self) -> Result<(), Stop> {
        let allowed = self.fed.saturating_mul(RATIO_MAX).max(RATIO_FREE).min(self.limit);
        if self.len() <= allowed {
            return Ok(());
        }
        self.bytes.truncate(self.limit);
        Err(Stop::Full)
    }

    /// Makes room for more, if there may be more.
    fn make_room(&mut self) -> Result<(), Stop> {
        self.check()?;
        if self.is_filled() {
            let most = self.limit.saturating_add(1).saturating_sub(self.len());
            self.bytes.reserve_exact(self.len().max(ROOM).min(most));
        }
        Ok(())
    }

    /// Whether the room was used up, so that there may be more to come.
    fn is_filled(&self) -> bool {
        self.len() == self.bytes.capacity()
    }
}

/// Runs inflate over `input`. Returns what is left of it once the stream has
/// ended, and nothing while it has not.
fn inflate<'a>(
    stream: &mut Decompress,
    mut input: &'a [u8],
    out: &mut Decoded,
) -> Result<Option<&'a [u8]>, Stop> {
    loop {
        out.make_room()?;
        let before = stream.total_in();
        let status = stream.decompress_vec(input, &mut out.bytes, FlushDecompress::None);
        let used = usize::try_from(stream.total_in() - before).unwrap_or(usize::MAX);
        input = input.get(used..).unwrap_or_default();
        match status {
            Ok(Status::StreamEnd) => return Ok(Some(input)),
            // With room left, all that could be made of the input was made.
            Ok(_) if input.is_empty() && !out.is_filled() => return Ok(None),
            Ok(Status::BufError) if !out.is_filled() => return Err(Stop::Broken),
            Ok(_) => {}
            Err(_) => return Err(Stop::Broken),
        }
    }
}

/// Gzip: members, one after the other.
pub(super) struct Gzip {
    stream: Decompress,
    is_within_member: bool,
    members: u32,
    is_done: bool,
}

impl Gzip {
    fn new() -> Self {
        Self { stream: gzip_stream(), is_within_member: false, members: 0, is_done: false }
    }

    fn write(&mut self, mut input: &[u8], out: &mut Decoded) -> Result<(), Stop> {
        while !input.is_empty() && !self.is_done {
            if !self.is_within_member {
                self.begin_member()?;
            }
            let before = out.len();
            match inflate(&mut self.stream, input, out) {
                Ok(Some(rest)) => {
                    self.is_within_member = false;
                    input = rest;
                }
                Ok(None) => return Ok(()),
                // What follows the first member need not be a member.
                Err(Stop::Broken) if self.members > 1 && out.len() == before => {
                    self.is_within_member = false;
                    self.is_done = true;
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(())
    }

    fn begin_member(&mut self) -> Result<(), Stop> {
        if self.members == MEMBERS_MAX {
            return Err(Stop::Full);
        }
        if self.members > 0 {
            self.stream = gzip_stream();
        }
        self.members += 1;
        self.is_within_member = true;
        Ok(())
    }
}

fn gzip_stream() -> Decompress {
    Decompress::new_gzip(15)
}

/// Deflate: in a zlib stream, as the standard says, or bare, as some servers
/// think.
#[derive(Default)]
pub(super) enum Deflate {
    #[default]
    Empty,
    /// The first byte alone does not tell which of the two it is.
    OneByte(u8),
    Running(Decompress),
    Done,
}

impl Deflate {
    fn write(&mut self, input: &[u8], out: &mut Decoded) -> Result<(), Stop> {
        match (&mut *self, input) {
            (Self::Done, _) | (_, []) => Ok(()),
            (Self::Empty, [first]) => {
                *self = Self::OneByte(*first);
                Ok(())
            }
            (Self::Empty, [first, second, ..]) => {
                self.begin(*first, *second);
                self.run(input, out)
            }
            (Self::OneByte(first), [second, ..]) => {
                let first = *first;
                self.begin(first, *second);
                self.run(&[first], out)?;
                self.run(input, out)
            }
            (Self::Running(_), _) => self.run(input, out),
        }
    }

    /// A zlib header names method 8 and is divisible by 31.
    fn begin(&mut self, first: u8, second: u8) {
        let is_zlib = first & 0x0f == 8 && u16::from_be_bytes([first, second]).is_multiple_of(31);
        *self = Self::Running(Decompress::new(is_zlib));
    }

    fn run(&mut self, input: &[u8], out: &mut Decoded) -> Result<(), Stop> {
        let Self::Running(stream) = self else { return Ok(()) };
        if inflate(stream, input, out)?.is_some() {
            *self = Self::Done;
        }
        Ok(())
    }
}

/// Brotli: one stream.
///
/// Of a stream that is not valid the decoder may make something or nothing, as its pieces
/// come: its path for long input takes what the one for short input refuses.
pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    is_begun: bool,
    is_done: bool,
}

impl Brotli {
    fn new() -> Self {
        // Strict, because the lenient reading admits windows of 1 GiB.
        let alloc = StandardAlloc::default;
        let state = BrotliState::new_strict(alloc(), alloc(), alloc());
        Self { state, is_begun: false, is_done: false }
    }

    fn write(&mut self, input: &[u8], out: &mut Decoded) -> Result<(), Stop> {
        self.is_begun |= !input.is_empty();
        let (mut left, mut used) = (input.len(), 0);
        while !self.is_done {
            out.make_room()?;
            let start = out.len();
            // The decoder wants initialised memory; no more of it than is used.
            out.bytes.resize(out.bytes.capacity().min(start + ROOM), 0);
            let (mut room, mut end, mut total) = (out.len() - start, start, 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut used,
                input,
                &mut room,
                &mut end,
                &mut out.bytes,
                &mut total,
                &mut self.state,
            );
            out.bytes.truncate(end);
            match result {
                BrotliResult::ResultSuccess => self.is_done = true,
                BrotliResult::NeedsMoreInput if room > 0 => return Ok(()),
                BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultFailure => return Err(Stop::Broken),
            }
        }
        Ok(())
    }
}

/// Zstandard: frames, one after the other.
pub(super) struct Zstd {
    /// Nothing once what comes is no frame any more.
    stream: Option<ZstdDecoder<'static>>,
    is_within_frame: bool,
    is_past_first: bool,
}

impl Zstd {
    fn new() -> Self {
        // Neither fails but for want of memory.
        let stream = ZstdDecoder::new().and_then(|mut stream| {
            stream.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
            Ok(stream)
        });
        Self { stream: stream.ok(), is_within_frame: false, is_past_first: false }
    }

    fn write(&mut self, input: &[u8], out: &mut Decoded) -> Result<(), Stop> {
        let Some(stream) = &mut self.stream else {
            return if self.is_past_first { Ok(()) } else { Err(Stop::Broken) };
        };
        let mut input = InBuffer::around(input);
        while input.pos() < input.src.len() || (self.is_within_frame && out.is_filled()) {
            out.make_room()?;
            let start = out.len();
            match stream.run(&mut input, &mut OutBuffer::around_pos(&mut out.bytes, start)) {
                Ok(wanted) => {
                    self.is_within_frame = wanted > 0;
                    self.is_past_first |= wanted == 0;
                }
                // What follows the first frame need not be a frame.
                Err(_) if self.is_past_first && !self.is_within_frame => {
                    self.stream = None;
                    return Ok(());
                }
                Err(_) => return Err(Stop::Broken),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    const TEXT: &[u8] =
        b"The quick brown fox jumps over the lazy dog. The quick brown fox jumps over \
        the lazy dog. The quick brown fox jumps over the lazy dog. ";

    /// `TEXT` and 64 MiB of zeros, as Python's `brotli.compress` made them.
    const TEXT_BROTLI: &[u8] =
        b"\x1b\x86\x00\x88\x2c\x0e\x78\xd3\xd0\x95\x5d\x97\x10\xbb\x17\x2b\xa9\xca\xd0\x92\xcc\x8c\
        \xad\x41\x5c\xe6\xf2\x36\xc8\x19\x9e\x9e\x0a\x7b\x83\x0d\x38\x70\x48\x20\x6f\x24\xb9\x41\
        \xa7\x15\xce\x1c\x1e\x27\xaa\x29\x38\xc2\xa1\xfb\x34\x18";
    const ZEROS_BROTLI: &[u8] =
        b"\xcf\xff\xff\x7f\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x9f\xff\xff\xff\xf0\x4f\x00\xc4\x61\
        \x01\x80\xee\xfd\x3f\xff\xff\xff\xe1\x9f\x00\x88\xc3\x22\x00\xdd\xfb\x7f\xfe\xff\xff\xc3\
        \x3f\x01\x10\x87\x05\x00\xba\xf7\xff\x03";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// `TEXT` in every form that it may come in.
    fn texts() -> Vec<(&'static str, Coding, Vec<u8>)> {
        let (start, end) = TEXT.split_at(60);
        vec![
            ("gzip", Coding::Gzip, gzip(TEXT)),
            ("gzip members", Coding::Gzip, [gzip(start), gzip(b""), gzip(end)].concat()),
            ("zlib", Coding::Deflate, zlib(TEXT)),
            ("bare deflate", Coding::Deflate, deflate(TEXT)),
            ("brotli", Coding::Brotli, TEXT_BROTLI.to_vec()),
            ("zstd", Coding::Zstd, zstd(TEXT)),
            ("zstd frames", Coding::Zstd, [zstd(start), zstd(b""), zstd(end)].concat()),
        ]
    }

    /// 64 MiB of zeros.
    fn bombs() -> Vec<(Coding, Vec<u8>)> {
        let zeros = vec![0; 64 * 1024 * 1024];
        vec![
            (Coding::Gzip, gzip(&zeros)),
            (Coding::Deflate, zlib(&zeros)),
            (Coding::Brotli, ZEROS_BROTLI.to_vec()),
            (Coding::Zstd, zstd(&zeros)),
        ]
    }

    fn decode(coding: Coding, chunks: &[&[u8]], limit: usize) -> (Result<bool, Stop>, Vec<u8>) {
        let (mut decoder, mut out) = (Decoder::new(coding), Decoded::new(0, limit));
        let result = chunks.iter().try_for_each(|chunk| decoder.write(chunk, &mut out));
        (result.map(|()| decoder.is_whole()), out.into_bytes())
    }

    #[test]
    fn every_coding_is_undone_however_it_is_cut_up() {
        for (name, coding, bytes) in texts() {
            for size in [1, 2, 3, 7, 50, bytes.len()] {
                let chunks: Vec<_> = bytes.chunks(size).collect();
                let decoded = decode(coding, &chunks, 1000);
                assert_eq!(decoded, (Ok(true), TEXT.to_vec()), "{name} in pieces of {size}");
            }
            let decoded = decode(coding, &[&bytes, b"\n\0 and more"], 1000);
            assert_eq!(decoded, (Ok(true), TEXT.to_vec()), "{name} with garbage after it");
            let decoded = decode(coding, &[&[&bytes[..], b"\0\0\0"].concat()], 1000);
            assert_eq!(decoded, (Ok(true), TEXT.to_vec()), "{name} with padding");
        }
    }

    #[test]
    fn a_body_without_a_byte_is_whole() {
        for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd] {
            assert_eq!(decode(coding, &[], 1000), (Ok(true), Vec::new()), "{coding:?}");
            assert_eq!(decode(coding, &[b""], 1000), (Ok(true), Vec::new()), "{coding:?}");
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_not_whole() {
        for (name, coding, bytes) in texts() {
            let (result, decoded) = decode(coding, &[&bytes[..bytes.len() - 5]], 1000);
            assert_eq!(result, Ok(false), "{name}");
            assert!(TEXT.starts_with(&decoded), "{name}");
        }
    }

    #[test]
    fn the_limit_is_exact() {
        for (name, coding, bytes) in texts() {
            let exact = decode(coding, &[&bytes], TEXT.len());
            assert_eq!(exact, (Ok(true), TEXT.to_vec()), "{name}");
            for limit in [0, 1, 59, 60, TEXT.len() - 1] {
                let cut = decode(coding, &[&bytes], limit);
                assert_eq!(cut, (Err(Stop::Full), TEXT[..limit].to_vec()), "{name} at {limit}");
            }
        }
    }

    #[test]
    fn bombs_are_cut_by_their_ratio() {
        for (coding, bytes) in bombs() {
            let (result, decoded) = decode(coding, &[&bytes], usize::MAX);
            assert_eq!(result, Err(Stop::Full), "{coding:?}");
            let most = 2 * RATIO_FREE.max(RATIO_MAX * bytes.len());
            assert!((RATIO_FREE..=most).contains(&decoded.len()), "{coding:?} {}", decoded.len());
        }
        let empty_members = gzip(b"").repeat(100_000);
        let (result, _) = decode(Coding::Gzip, &[&empty_members], 1000);
        assert_eq!(result, Err(Stop::Full));
    }

    #[test]
    fn a_broken_stream_keeps_what_came_before() {
        let mut random = fastrand::Rng::with_seed(7);
        let text: Vec<u8> = (0..200_000).map(|_| random.alphanumeric() as u8).collect();
        for (coding, mut bytes) in [
            (Coding::Gzip, gzip(&text)),
            (Coding::Deflate, zlib(&text)),
            (Coding::Zstd, zstd(&text)),
        ] {
            let middle = bytes.len() / 2;
            bytes[middle..middle + 200].fill(0xff);
            let (result, decoded) = decode(coding, &[&bytes], usize::MAX);
            assert_eq!(result, Err(Stop::Broken), "{coding:?}");
            assert!(decoded.len() > 10_000 && text.starts_with(&decoded[..10_000]), "{coding:?}");
        }
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            let (result, decoded) = decode(coding, &[b"<html>no coding at all</html>"], 1000);
            assert_eq!((result, decoded), (Err(Stop::Broken), Vec::new()), "{coding:?}");
        }
    }

    #[test]
    fn noise_is_harmless() {
        let mut random = fastrand::Rng::with_seed(11);
        for round in 0..2_000 {
            for (_, coding, mut bytes) in texts() {
                for _ in 0..random.usize(1..4) {
                    let at = random.usize(..bytes.len());
                    bytes[at] = random.u8(..);
                }
                let size = random.usize(1..=bytes.len());
                let chunks: Vec<_> = bytes.chunks(size).collect();
                let (_, decoded) = decode(coding, &chunks, 10_000);
                assert!(decoded.len() <= 10_000, "round {round}");
            }
        }
    }

    #[test]
    fn only_one_known_coding_is_undone() {
        let coding = |values: &[&'static str]| {
            let values = values.iter().map(|value| (CONTENT_ENCODING, value.parse().unwrap()));
            Coding::of(&HeaderMap::from_iter(values))
        };
        for (values, want) in [
            (&[][..], None),
            (&[""], None),
            (&["identity"], None),
            (&["gzip"], Some(Coding::Gzip)),
            (&["X-GZip"], Some(Coding::Gzip)),
            (&[" deflate "], Some(Coding::Deflate)),
            (&["br"], Some(Coding::Brotli)),
            (&["zstd"], Some(Coding::Zstd)),
            (&["identity, gzip"], Some(Coding::Gzip)),
            (&["gzip, gzip"], None),
            (&["gzip, br"], None),
            (&["compress"], None),
            (&["utf-8"], None),
        ] {
            assert_eq!(coding(values), want, "{values:?}");
        }
        let mut twice = HeaderMap::from_iter([(CONTENT_ENCODING, "gzip".parse().unwrap())]);
        twice.append(CONTENT_ENCODING, "br".parse().unwrap());
        assert_eq!(Coding::of(&twice), None);
    }
}
