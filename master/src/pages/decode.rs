//! A stored body without its content coding.
//!
//! The worker has decoded it once, within its limits, and noted how long it came
//! out; so no more than that is ever inflated here, whatever the bytes say. Which
//! codings are undone is the worker's to choose (`worker::fetch::coding`); this
//! does what that does.

use std::{
    borrow::Cow,
    io::{self, Read},
};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use trawl_shared::page::PageMeta;

use super::Answer;

/// Bytes that are set aside before it is seen that they come.
const ROOM: u64 = 1024 * 1024;

/// The body that `meta` tells of. Where the worker saw a coding break off, a few
/// bytes before the break may be missing.
///
/// # Errors
/// If the coded bytes end before the body does, although the worker had read it
/// whole.
pub(super) fn body<'a>(answer: &Answer<'a>, meta: &PageMeta) -> io::Result<Cow<'a, [u8]>> {
    let coding = coding(answer).unwrap_or_default();
    let Some(decoder) = decoder(&coding, answer.payload)? else {
        return Ok(answer.payload.into());
    };
    let room = usize::try_from(meta.bytes.min(ROOM)).unwrap_or_default();
    let mut body = Vec::with_capacity(room);
    let read = decoder.take(meta.bytes).read_to_end(&mut body);
    if meta.truncated.is_none() {
        read?;
        if (body.len() as u64) < meta.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(body.into())
}

/// The one coding that the answer names. A body with several is stored, and was
/// parsed, as it came.
fn coding(answer: &Answer<'_>) -> Option<Vec<u8>> {
    let mut codings = answer
        .headers()
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"content-encoding"))
        .flat_map(|(_, value)| value.split(|byte| *byte == b','))
        .map(|coding| coding.trim_ascii().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != b"identity");
    codings.next().filter(|_| codings.next().is_none())
}

/// A decoder for the coding; none if the body is as it came.
fn decoder<'a>(coding: &[u8], coded: &'a [u8]) -> io::Result<Option<Box<dyn Read + 'a>>> {
    Ok(Some(match coding {
        b"gzip" | b"x-gzip" => Box::new(MultiGzDecoder::new(coded)),
        // Should be zlib by the standard, but some hosts send bare deflate.
        b"deflate" if is_zlib(coded) => Box::new(ZlibDecoder::new(coded)),
        b"deflate" => Box::new(DeflateDecoder::new(coded)),
        b"br" => Box::new(brotli_decompressor::Decompressor::new(coded, 4096)),
        b"zstd" => Box::new(zstd::Decoder::with_buffer(coded)?),
        _ => return Ok(None),
    }))
}

fn is_zlib(head: &[u8]) -> bool {
    matches!(head, [a, b, ..] if a & 0x0f == 8 && u16::from_be_bytes([*a, *b]).is_multiple_of(31))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write};
    use sha1::{Digest, Sha1};
    use trawl_shared::{page::Truncated, warc::sha1_hex};

    use super::*;

    fn meta(body: &[u8]) -> PageMeta {
        let sha1 = sha1_hex(&Sha1::digest(body).into());
        PageMeta { bytes: body.len() as u64, sha1, ..PageMeta::default() }
    }

    fn decode(codings: &str, payload: &[u8], meta: &PageMeta) -> io::Result<Vec<u8>> {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: {codings}\r\n\r\n");
        let block = [head.as_bytes(), payload].concat();
        body(&Answer::parse(&block).unwrap(), meta).map(Cow::into_owned)
    }

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = write::GzEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    /// `hello hello hello hello\n`, by `brotli` 1.2.1 of PyPI.
    const BROTLI: &[u8] = &[
        0x1b, 0x17, 0x00, 0xf8, 0x8d, 0x94, 0x6e, 0xde, 0x44, 0x55, 0x86, 0xd6, 0x0a, 0x20, 0x6c,
        0x6f, 0x4a, 0x11, 0x79, 0xe2, 0x80, 0xae, 0x16,
    ];

    #[test]
    fn every_coding_that_the_worker_asks_for() {
        let text = b"hello hello hello hello\n";
        let mut zlib = write::ZlibEncoder::new(Vec::new(), Compression::new(6));
        zlib.write_all(text).unwrap();
        let mut bare = write::DeflateEncoder::new(Vec::new(), Compression::new(6));
        bare.write_all(text).unwrap();
        for (codings, payload) in [
            ("gzip", gzip(text)),
            ("X-GZip", gzip(text)),
            ("gzip", [gzip(&text[..9]), gzip(&text[9..])].concat()),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", bare.finish().unwrap()),
            ("br", BROTLI.to_vec()),
            ("zstd", zstd::encode_all(&text[..], 3).unwrap()),
            ("identity", text.to_vec()),
            ("", text.to_vec()),
            ("Identity, GZIP", gzip(text)),
            // What the worker leaves alone is the body as it is.
            ("gzip, gzip", text.to_vec()),
            ("sdch", text.to_vec()),
        ] {
            let body = decode(codings, &payload, &meta(text)).unwrap();
            assert_eq!(sha1_hex(&Sha1::digest(&body).into()), meta(text).sha1, "{codings}");
        }
    }

    #[test]
    fn no_more_is_inflated_than_the_worker_did() {
        let bomb = gzip(&vec![b'x'; 10 << 20]);
        let meta = PageMeta { truncated: Some(Truncated::Length), ..meta(&[b'x'; 1000]) };
        assert_eq!(decode("gzip", &bomb, &meta).unwrap(), [b'x'; 1000]);
    }

    #[test]
    fn a_broken_end_counts_only_where_the_worker_saw_it() {
        let text = b"hello ".repeat(1000);
        let payload = gzip(&text);
        let cut = &payload[..payload.len() - 12];
        assert!(decode("gzip", cut, &meta(&text)).is_err());
        let broken = PageMeta { truncated: Some(Truncated::Unspecified), ..meta(&text) };
        let body = decode("gzip", cut, &broken).unwrap();
        assert!(text.starts_with(&body));
    }

    #[test]
    fn a_coding_that_is_not_there_made_no_body() {
        let none = PageMeta { truncated: Some(Truncated::Unspecified), ..meta(b"") };
        assert_eq!(decode("gzip", b"plain", &none).unwrap(), b"");
        assert_eq!(decode("gzip", b"", &meta(b"")).unwrap(), b"", "as redirects have");
        assert!(decode("gzip", b"plain", &meta(b"plain")).is_err());
    }
}
