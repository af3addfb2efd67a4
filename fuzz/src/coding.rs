//! Content codings: a line names it, the rest is the body.

use http::{HeaderMap, HeaderValue, header::CONTENT_ENCODING};
use trawl_worker::fetch::undone;

use super::split;

const LIMIT: usize = 4 * 1024 * 1024;

pub(super) fn run(data: &[u8]) {
    let (name, body) = split(data, b'\n');
    let Ok(name) = HeaderValue::from_bytes(name) else { return };
    let headers = HeaderMap::from_iter([(CONTENT_ENCODING, name)]);
    let Some((whole, is_whole)) = undone(&headers, [body], LIMIT) else { return };
    assert!(whole.len() <= LIMIT);
    // Of brotli that is not valid, its decoder makes what it likes.
    let mut pairs = headers[CONTENT_ENCODING].as_bytes().windows(2);
    let is_brotli = pairs.any(|pair| pair.eq_ignore_ascii_case(b"br"));
    for size in [1, 7] {
        let Some((pieces, are_whole)) = undone(&headers, body.chunks(size), LIMIT) else { return };
        assert!(pieces.len() <= LIMIT);
        if is_whole && !is_brotli {
            assert_eq!((&pieces, are_whole), (&whole, true), "in pieces of {size}");
        }
    }
}
