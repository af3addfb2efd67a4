//! A response's body, read as it comes and kept within its limits.
//!
//! The bytes as received and the decoded bytes are both bounded by the crawl's
//! `body_limit`. What goes beyond is not read: the connection is dropped and the
//! page marked as truncated. What was received of a broken coding is kept whole,
//! so that a later reader can do better than we did.

use std::future::Future;

use bytes::Bytes;
use tokio::time::{Duration, Instant};
use trawl_shared::{page::Truncated, units::Size};

use super::{
    FetchError, Timeout,
    coding::{Coding, Decoded, Decoder, Stop},
    deadline::Deadline,
};

/// How long a body may come as slowly as it likes.
const RATE_FROM: Duration = Duration::from_secs(10);

/// The most room that is made because of a Content-Length alone.
const ROOM_MAX: usize = 1024 * 1024;

/// Where a body's bytes come from.
pub(super) trait Chunks: Send {
    /// The next bytes; nothing at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, FetchError>> + Send;
}

/// What is known of a body before its first byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) coding: Option<Coding>,
    /// Its length as received, if the host says it.
    pub(super) length: Option<u64>,
    /// Bytes that are kept at most.
    pub(super) limit: usize,
}

/// A body that was read.
#[derive(Debug)]
pub(super) struct Body {
    /// As received.
    pub(super) wire: Bytes,
    /// Decoded; shares `wire`'s memory if there was nothing to decode.
    pub(super) decoded: Bytes,
    pub(super) truncated: Option<Truncated>,
}

/// Reads a body to its end, or to where it is cut.
///
/// # Errors
/// If the connection breaks, or a time limit is reached: then nothing is kept.
pub(super) async fn read(
    chunks: &mut impl Chunks,
    expected: Expected,
    deadline: &mut Deadline,
) -> Result<Body, FetchError> {
    let started = Instant::now();
    let mut reading = Reading::new(expected);
    while let Some(chunk) = deadline.wait(chunks.next(), Timeout::Stalled).await?? {
        if !reading.take(&chunk) {
            break;
        }
        let rate = deadline.rate();
        if is_slower(rate, reading.wire.len(), started.elapsed()) {
            return Err(FetchError::Timeout(Timeout::TooSlow(rate)));
        }
    }
    Ok(reading.finish())
}

fn is_slower(rate: Size, bytes: usize, elapsed: Duration) -> bool {
    let expected = u128::from(rate.as_bytes()) * elapsed.as_millis() / 1000;
    elapsed >= RATE_FROM && (bytes as u128) < expected
}

/// A body being read.
struct Reading {
    wire: Vec<u8>,
    limit: usize,
    decoding: Option<(Decoder, Decoded)>,
    truncated: Option<Truncated>,
}

impl Reading {
    fn new(Expected { coding, length, limit }: Expected) -> Self {
        let length = length.map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
        let room = length.min(limit).min(ROOM_MAX);
        let decoding = coding.map(|coding| {
            (Decoder::new(coding), Decoded::new(room.saturating_mul(4).min(ROOM_MAX), limit))
        });
        Self { wire: Vec::with_capacity(room), limit, decoding, truncated: None }
    }

    /// Takes the next bytes. False if no more are wanted.
    fn take(&mut self, chunk: &[u8]) -> bool {
        let room = self.limit - self.wire.len();
        let kept = chunk.get(..room).unwrap_or(chunk);
        self.wire.extend_from_slice(kept);
        self.decode(kept);
        if kept.len() < chunk.len() {
            self.truncated = Some(Truncated::Length);
        }
        self.truncated != Some(Truncated::Length)
    }

    fn decode(&mut self, input: &[u8]) {
        if self.truncated.is_some() {
            return;
        }
        if let Some((decoder, decoded)) = &mut self.decoding {
            self.truncated = match decoder.write(input, decoded) {
                Ok(()) => None,
                Err(Stop::Full) => Some(Truncated::Length),
                Err(Stop::Broken) => Some(Truncated::Unspecified),
            };
        }
    }

    fn finish(mut self) -> Body {
        let wire = compact(self.wire);
        let Some((decoder, decoded)) = self.decoding else {
            return Body { decoded: wire.clone(), wire, truncated: self.truncated };
        };
        if !decoder.is_whole() {
            self.truncated = self.truncated.or(Some(Truncated::Unspecified));
        }
        Body { wire, decoded: compact(decoded.into_bytes()), truncated: self.truncated }
    }
}

/// Bytes are held until a page is reported, so much room to spare is given back.
fn compact(mut bytes: Vec<u8>) -> Bytes {
    if bytes.capacity() - bytes.len() > bytes.len() / 4 + 1024 {
        bytes.shrink_to_fit();
    }
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, io::Write as _};

    use flate2::{Compression, write::GzEncoder};
    use trawl_shared::units::Span;

    use super::*;
    use crate::fetch::deadline::Limits;

    /// Chunks, each after its number of seconds.
    struct Script(VecDeque<(u64, Vec<u8>)>);

    impl Chunks for Script {
        async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
            let Some((secs, bytes)) = self.0.pop_front() else { return Ok(None) };
            tokio::time::sleep(Duration::from_secs(secs)).await;
            Ok(Some(bytes.into()))
        }
    }

    async fn read_all(
        chunks: impl IntoIterator<Item = (u64, Vec<u8>)>,
        coding: Option<Coding>,
        limit: usize,
    ) -> Result<Body, FetchError> {
        let limits = Limits {
            connect: Span::secs(1),
            silence: Span::secs(60),
            whole: Span::secs(3600),
            rate: Size::bytes(1024),
        };
        let expected = Expected { coding, length: None, limit };
        let mut chunks = Script(chunks.into_iter().collect());
        read(&mut chunks, expected, &mut Deadline::new(limits)).await
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn what_is_not_coded_is_held_once() {
        let body = read_all([(0, b"abc".to_vec()), (0, b"de".to_vec())], None, 5).await.unwrap();
        assert_eq!(body.wire, "abcde");
        assert_eq!(body.wire.as_ptr(), body.decoded.as_ptr());
        assert_eq!(body.truncated, None);
    }

    #[tokio::test]
    async fn the_limit_cuts_both_forms() {
        let body = read_all([(0, b"abc".to_vec()), (0, b"de".to_vec())], None, 4).await.unwrap();
        assert_eq!((&body.wire[..], body.truncated), (&b"abcd"[..], Some(Truncated::Length)));

        let coded = gzip(&b"abcdefgh".repeat(100));
        let body = read_all([(0, coded.clone())], Some(Coding::Gzip), 300).await.unwrap();
        assert_eq!((body.decoded.len(), body.truncated), (300, Some(Truncated::Length)));
        assert_eq!(body.wire, coded);

        let body = read_all([(0, coded.clone())], Some(Coding::Gzip), 12).await.unwrap();
        assert_eq!((&body.wire[..], body.truncated), (&coded[..12], Some(Truncated::Length)));
    }

    #[tokio::test]
    async fn a_broken_coding_keeps_all_that_was_received() {
        let chunks = [gzip(b"abc"), b"\x1f\x8b and then garbage".to_vec()].concat();
        let body = read_all([(0, chunks.clone())], Some(Coding::Gzip), 1000).await.unwrap();
        assert_eq!((&body.decoded[..], body.truncated), (&b"abc"[..], None));

        let chunks = [(0, b"no gzip".to_vec()), (0, b" at all".to_vec())];
        let body = read_all(chunks, Some(Coding::Gzip), 1000).await.unwrap();
        assert_eq!((&body.decoded[..], body.truncated), (&b""[..], Some(Truncated::Unspecified)));
        assert_eq!(body.wire, "no gzip at all");

        let chunks = [(0, gzip(b"abcdef")[..12].to_vec())];
        let body = read_all(chunks, Some(Coding::Gzip), 1000).await.unwrap();
        assert_eq!(body.truncated, Some(Truncated::Unspecified));
        let body = read_all([], Some(Coding::Gzip), 1000).await.unwrap();
        assert_eq!((body.decoded.len(), body.truncated), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_be_slow_for_ten_seconds_and_not_longer() {
        let drip = |bytes: usize| (0..20).map(move |_| (1, vec![b'x'; bytes]));
        let error = read_all(drip(1000), None, 1 << 20).await.unwrap_err();
        assert_eq!(error.to_string(), "slower than 1.0 KiB a second");
        let body = read_all(drip(1024), None, 1 << 20).await.unwrap();
        assert_eq!(body.wire.len(), 20 * 1024);
        let body = read_all(drip(1).take(9), None, 1 << 20).await.unwrap();
        assert_eq!(body.wire.len(), 9);
    }

    #[tokio::test]
    async fn a_length_is_not_trusted_with_memory() {
        let expected = Expected { coding: None, length: Some(u64::MAX), limit: 1 << 30 };
        assert!(Reading::new(expected).wire.capacity() <= ROOM_MAX);
        let expected = Expected { coding: None, length: Some(700), limit: 1 << 30 };
        assert_eq!(Reading::new(expected).wire.capacity(), 700);
    }
}
