//! Bytes to text: which charset, and why we think so.
//!
//! The order is the HTML standard's: byte order mark, Content-Type header,
//! `<meta>`; then, for pages that declare nothing, the crawl's own list and a
//! guess. Declarations are believed even when they are wrong, as browsers do.
//! Any bytes become text: what does not fit its charset is replaced, and the
//! page marked as lossy. Labels are those of the WHATWG Encoding standard, of
//! which those of its "replacement" encoding count as unknown: browsers show
//! nothing of such a page, and a crawl loses nothing by a guess.

use std::{borrow::Cow, str, time::Duration};

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE};
use trawl_shared::page::{Charset, CharsetSource};

use super::prescan::prescan;

/// Bytes from the first non-ASCII one that a guess looks at. More would not make
/// it better, only slower: it reads some 20 MB a second.
const GUESS_BYTES_MAX: usize = 64 * 1024;

/// Bytes that are read between two looks at the clock.
const PIECE_BYTES: usize = 64 * 1024;

/// CPU time that a page may have taken when it becomes text. Garbage takes 40 ns a
/// byte; megabytes of text take a tenth of this.
const TIME_MAX: Duration = Duration::from_millis(100);

/// Bytes of text that are made of bytes that are not UTF-8.
const TEXT_BYTES_MAX: usize = 40 * 1024 * 1024;

/// Bytes of room that is made for them at once.
const ROOM_BYTES: usize = 8 * 1024 * 1024;

/// Bytes that each charset of a list is tried on. One that fits these is used, and
/// what follows and does not fit is replaced.
const TRIED_BYTES_MAX: usize = 256 * 1024;

/// The encoding of a label such as `latin1`, if it has one.
pub(super) fn encoding(label: &[u8]) -> Option<&'static Encoding> {
    Encoding::for_label_no_replacement(label)
}

/// What a body says, and how that was found.
#[derive(Debug)]
pub struct Decoded<'a> {
    /// The text, without a byte order mark. Valid UTF-8 is borrowed.
    pub text: Cow<'a, str>,
    /// How the bytes were read.
    pub charset: Charset,
    /// Whether they were so odd that there was no time for all of them.
    pub cut: bool,
}

/// Reads `body`, sent as `content_type`. `list` is tried in order on a body that
/// declares nothing; `is_whole` tells that the body was not cut, so that half a
/// character at its end is an error. `clock` tells the CPU time spent on the page.
pub fn decode<'a>(
    body: &'a [u8],
    content_type: Option<&str>,
    list: &[&'static Encoding],
    is_whole: bool,
    clock: &dyn Fn() -> Duration,
) -> Decoded<'a> {
    if let Some((encoding, mark)) = Encoding::for_bom(body) {
        return lossily(&body[mark..], encoding, CharsetSource::Mark, clock);
    }
    if let Some(encoding) = content_type.and_then(header_encoding) {
        return lossily(body, encoding, CharsetSource::Header, clock);
    }
    if let Some(encoding) = prescan(body) {
        return lossily(body, encoding, CharsetSource::Meta, clock);
    }
    if let Some(encoding) = wide(body) {
        return lossily(body, encoding, CharsetSource::Guess, clock);
    }
    for &encoding in list {
        if let Some((head, _)) = body.split_at_checked(TRIED_BYTES_MAX) {
            if strictly(head, encoding, false).is_some() {
                return lossily(body, encoding, CharsetSource::List, clock);
            }
        } else if let Some(text) = strictly(body, encoding, is_whole) {
            let lossy = false;
            return decoded(text, encoding, CharsetSource::List, lossy);
        }
    }
    guess(body, is_whole, clock)
}

fn decoded<'a>(
    text: Cow<'a, str>,
    encoding: &'static Encoding,
    by: CharsetSource,
    lossy: bool,
) -> Decoded<'a> {
    let name = encoding.name().to_owned();
    Decoded { text, charset: Charset { name, by, lossy }, cut: false }
}

fn lossily<'a>(
    body: &'a [u8],
    encoding: &'static Encoding,
    by: CharsetSource,
    clock: &dyn Fn() -> Duration,
) -> Decoded<'a> {
    if let Some(text) = (encoding == UTF_8).then(|| str::from_utf8(body).ok()).flatten() {
        return decoded(Cow::Borrowed(text), encoding, by, false);
    }
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let (mut text, mut lossy) = (String::with_capacity(body.len()), false);
    let mut rest = body;
    let may_go_on = |text: &str| text.len() < TEXT_BYTES_MAX && clock() < TIME_MAX;
    while !rest.is_empty() && (rest.len() == body.len() || may_go_on(&text)) {
        let (piece, after) = rest.split_at(rest.len().min(PIECE_BYTES));
        rest = after;
        let room = decoder.max_utf8_buffer_length(piece.len()).unwrap_or(3 * piece.len());
        if text.capacity() - text.len() < room {
            // Not twice as much each time, as it would be by itself.
            text.reserve_exact(room.max(ROOM_BYTES.min(3 * rest.len())));
        }
        let (_, _, had_errors) = decoder.decode_to_string(piece, &mut text, rest.is_empty());
        lossy |= had_errors;
    }
    Decoded { cut: !rest.is_empty(), ..decoded(Cow::Owned(text), encoding, by, lossy) }
}

/// The text, if `encoding` fits every byte. What a cut body's last character
/// lacks is not held against it.
fn strictly<'a>(
    body: &'a [u8],
    encoding: &'static Encoding,
    is_whole: bool,
) -> Option<Cow<'a, str>> {
    let whole = encoding.decode_without_bom_handling_and_without_replacement(body);
    if is_whole || whole.is_some() {
        return whole;
    }
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let room = decoder.max_utf8_buffer_length_without_replacement(body.len())?;
    let mut text = String::with_capacity(room);
    let (result, _) = decoder.decode_to_string_without_replacement(body, &mut text, false);
    (result == DecoderResult::InputEmpty).then_some(Cow::Owned(text))
}

fn guess<'a>(body: &'a [u8], is_whole: bool, clock: &dyn Fn() -> Duration) -> Decoded<'a> {
    let error = match str::from_utf8(body) {
        Ok(text) => return decoded(Cow::Borrowed(text), UTF_8, CharsetSource::Guess, false),
        Err(error) => error,
    };
    if !is_whole && error.error_len().is_none() {
        return lossily(body, UTF_8, CharsetSource::Guess, clock);
    }
    let start = Encoding::ascii_valid_up_to(body);
    let rest = &body[start..];
    let looked_at = &rest[..rest.len().min(GUESS_BYTES_MAX)];
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    // A byte before the first odd one tells the detector that a word goes on.
    detector.feed(&body[start.saturating_sub(1)..start], false);
    detector.feed(looked_at, looked_at.len() == rest.len());
    // UTF-8 with a broken byte is not UTF-8 to the detector, unless it has not
    // come to that byte: what it saw is then valid, and the rest gets replaced.
    let encoding = detector.guess(None, Utf8Detection::Allow);
    lossily(body, encoding, CharsetSource::Guess, clock)
}

/// The UTF-16 of a page that begins with a tag but not with a byte order mark. In any
/// other encoding it would begin with NULs.
fn wide(body: &[u8]) -> Option<&'static Encoding> {
    let begins = |unit: fn([u8; 2]) -> u16| {
        let units = body.chunks_exact(2).map(|bytes| unit([bytes[0], bytes[1]]));
        let mut chars = units.map_while(|unit| u8::try_from(unit).ok());
        let first = chars.find(|byte| !byte.is_ascii_whitespace());
        let tag = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'!' | b'?');
        first == Some(b'<') && chars.next().is_some_and(tag)
    };
    if begins(u16::from_le_bytes) {
        return Some(UTF_16LE);
    }
    begins(u16::from_be_bytes).then_some(UTF_16BE)
}

/// The encoding that a Content-Type header names.
fn header_encoding(content_type: &str) -> Option<&'static Encoding> {
    // Single quotes mean nothing in a header, but some servers send them.
    charset_parameter(content_type).and_then(|label| encoding(label.trim_matches('\'').as_bytes()))
}

/// The first `charset` parameter of a MIME type, by the MIME Sniffing standard.
fn charset_parameter(mime: &str) -> Option<&str> {
    let (_, mut rest) = mime.split_once(';')?;
    loop {
        let name_end = rest.find([';', '='])?;
        let name = rest[..name_end].trim();
        let is_named = rest.as_bytes()[name_end] == b'=';
        rest = &rest[name_end + 1..];
        if !is_named {
            continue;
        }
        let (value, after) = parameter_value(rest);
        if name.eq_ignore_ascii_case("charset") && !value.is_empty() {
            return Some(value);
        }
        rest = after?;
    }
}

/// A parameter's value, and what follows its semicolon. No charset has a label
/// with a quote or a backslash in it, so escapes need not be undone.
fn parameter_value(text: &str) -> (&str, Option<&str>) {
    let (value, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
        None => {
            let end = text.find(';').unwrap_or(text.len());
            text.split_at(end)
        }
    };
    (value.trim(), rest.split_once(';').map(|(_, after)| after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8], content_type: Option<&str>, list: &[&str]) -> (String, String) {
        let list: Vec<_> = list.iter().map(|label| encoding(label.as_bytes()).unwrap()).collect();
        let decoded = decode(body, content_type, &list, true, &still);
        let charset = decoded.charset;
        let lossy = if charset.lossy { " lossy" } else { "" };
        (decoded.text.into_owned(), format!("{} {:?}{lossy}", charset.name, charset.by))
    }

    /// A clock on which nothing takes time.
    fn still() -> Duration {
        Duration::ZERO
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|b| *b != b' ').collect();
        let pair = |p: &[u8]| u8::from_str_radix(str::from_utf8(p).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    /// The bytes are what Python's codecs write for the text.
    #[test]
    fn charsets_of_headers() {
        for (label, hex, text, name) in [
            ("gb2312", "d6d0 b9fa", "中国", "GBK"),
            ("GBK", "d6d0 8140", "中丂", "GBK"),
            ("gb18030", "d6d0 9439 dc35", "中💿", "gb18030"),
            ("big5", "a4a4 a4e5", "中文", "Big5"),
            ("Shift_JIS", "93fa 967b b1", "日本ｱ", "Shift_JIS"),
            ("x-sjis", "93fa", "日", "Shift_JIS"),
            ("euc-jp", "c6fc cbdc", "日本", "EUC-JP"),
            ("iso-2022-jp", "1b2442 467c 1b2842", "日", "ISO-2022-JP"),
            ("ks_c_5601-1987", "c7d1 b1b9", "한국", "EUC-KR"),
            ("windows-1251", "cfd0", "ПР", "windows-1251"),
            ("koi8-r", "f0f2", "ПР", "KOI8-R"),
            ("iso-8859-1", "e9 80", "é€", "windows-1252"),
            ("us-ascii", "93", "“", "windows-1252"),
            ("iso-8859-2", "b1", "ą", "ISO-8859-2"),
            ("utf-16", "4800 6900", "Hi", "UTF-16LE"),
            ("utf-16be", "0048 0069", "Hi", "UTF-16BE"),
            ("UTF8", "c3a9", "é", "UTF-8"),
        ] {
            let header = format!("text/html; charset={label}");
            let (got, how) = read(&bytes(hex), Some(&header), &[]);
            assert_eq!((got.as_str(), how), (text, format!("{name} Header")), "{label}");
        }
    }

    #[test]
    fn a_byte_order_mark_beats_every_declaration() {
        let header = Some("text/html; charset=koi8-r");
        for (hex, want) in [
            ("efbbbf c3a9", ("é", "UTF-8 Mark")),
            ("fffe e900", ("é", "UTF-16LE Mark")),
            ("feff 00e9", ("é", "UTF-16BE Mark")),
            ("fffe e900 41", ("é\u{fffd}", "UTF-16LE Mark lossy")),
        ] {
            let (text, how) = read(&bytes(hex), header, &[]);
            assert_eq!((text.as_str(), how.as_str()), want);
        }
    }

    #[test]
    fn a_header_beats_a_meta_even_when_it_is_wrong() {
        let page = "<meta charset=utf-8>é".as_bytes();
        let header = |charset: &str| format!("text/html; charset={charset}");
        let how = |charset: &str| read(page, Some(&header(charset)), &[]);
        assert_eq!(how("windows-1251").0, "<meta charset=utf-8>Г©");
        assert_eq!(how("windows-1251").1, "windows-1251 Header");
        for unknown in ["", "none", "utf-8x", "iso-2022-kr", "\"\""] {
            let want = ("<meta charset=utf-8>é".to_owned(), "UTF-8 Meta".to_owned());
            assert_eq!(how(unknown), want, "{unknown:?}");
        }
    }

    #[test]
    fn wrong_bytes_are_replaced_and_told() {
        let (text, how) = read(b"a\xffb", Some("text/html; charset=utf-8"), &[]);
        assert_eq!((text.as_str(), how.as_str()), ("a\u{fffd}b", "UTF-8 Header lossy"));
    }

    #[test]
    fn the_list_is_tried_in_order_and_strictly() {
        let list = ["utf-8", "gb18030", "windows-1251"];
        for (hex, want) in [
            ("c3a9", ("é", "UTF-8 List")),
            ("d6d0 b9fa", ("中国", "gb18030 List")),
            ("cf20 d0", ("П Р", "windows-1251 List")),
        ] {
            let (text, how) = read(&bytes(hex), Some("text/html"), &list);
            assert_eq!((text.as_str(), how.as_str()), want);
        }
        // None fits: 0xdb is not in windows-874, and alone not UTF-8.
        let (_, how) = read(&bytes("db 20"), None, &["utf-8", "windows-874"]);
        assert!(how.contains("Guess"), "{how}");
    }

    #[test]
    fn undeclared_pages_are_guessed() {
        let koi8 = "f0d2c9d7c5d4 cdc9d2 fcd4cf d0d2cfd3d4cfca d4c5cbd3d4 cec120 d2d5d3d3cbcfcd";
        let sjis = "93fa967b8cea 82cc 83658358836782c582b7 81428ab48ec6 8344 8343";
        for (body, name) in [
            (b"plain".to_vec(), "UTF-8 Guess"),
            ("é".as_bytes().to_vec(), "UTF-8 Guess"),
            (b"caf\xe9 cr\xe8me".to_vec(), "windows-1252 Guess"),
            (bytes(koi8), "KOI8-U Guess"),
            (bytes(sjis), "Shift_JIS Guess"),
        ] {
            assert_eq!(read(&body, None, &[]).1, name, "{body:x?}");
        }
    }

    #[test]
    fn half_a_character_at_the_end_of_a_cut_body_is_no_error() {
        let half = "中国 é".as_bytes();
        let half = &half[..half.len() - 1];
        let cut = decode(half, None, &[], false, &still);
        assert_eq!(cut.text, "中国 \u{fffd}");
        assert_eq!((cut.charset.name.as_str(), cut.charset.lossy), ("UTF-8", true));

        let gbk = bytes("d6d0 b9");
        let list = [encoding(b"gbk").unwrap()];
        assert_eq!(decode(&gbk, None, &list, false, &still).text, "中");
        assert_eq!(decode(&gbk, None, &list, false, &still).charset.by, CharsetSource::List);
        assert_eq!(decode(&gbk, None, &list, true, &still).charset.by, CharsetSource::Guess);
    }

    #[test]
    fn valid_utf8_is_not_copied() {
        let page = "<meta charset=utf-8>é".as_bytes();
        for header in [None, Some("text/html;charset=utf-8")] {
            assert!(matches!(decode(page, header, &[], true, &still).text, Cow::Borrowed(_)));
        }
        assert!(matches!(decode("é".as_bytes(), None, &[], true, &still).text, Cow::Borrowed(_)));
    }

    #[test]
    fn utf_16_without_a_mark_is_known_by_its_first_tag() {
        for (text, is_wide) in [
            ("<!doctype html><title>é", true),
            (" \n<p>漢字", true),
            ("<?php ", true),
            ("漢字", false),
            ("< p", false),
            ("<", false),
        ] {
            let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
            for (bytes, name) in [(little, "UTF-16LE"), (big, "UTF-16BE")] {
                let (got, how) = read(&bytes, None, &[]);
                let want = format!("{name} Guess");
                assert_eq!((got == text, how == want), (is_wide, is_wide), "{text} {how}");
            }
        }
    }

    #[test]
    fn garbage_is_read_as_long_as_there_is_time() {
        let garbage = vec![0xff; 3 * PIECE_BYTES];
        let late = || TIME_MAX;
        let cut = decode(&garbage, Some("text/html;charset=utf-8"), &[], true, &late);
        assert!(cut.cut && cut.charset.lossy);
        assert_eq!(cut.text.chars().count(), PIECE_BYTES);
        let whole = decode(&garbage, Some("text/html;charset=utf-8"), &[], true, &still);
        assert_eq!((whole.text.chars().count(), whole.cut), (3 * PIECE_BYTES, false));
    }

    #[test]
    fn a_character_may_lie_across_two_pieces() {
        let text = "日本".repeat(PIECE_BYTES);
        let (bytes, _, _) = encoding_rs::SHIFT_JIS.encode(&text);
        let odd = [b"x", &bytes[..]].concat();
        let read = decode(&odd, Some("text/html;charset=shift_jis"), &[], true, &still);
        assert!(read.text[1..] == text && !read.charset.lossy);
    }

    #[test]
    fn parameters_of_a_mime_type() {
        for (mime, want) in [
            ("text/html", None),
            ("text/html; charset=utf-8", Some("utf-8")),
            ("text/html;charset=\"utf-8\"; x=y", Some("utf-8")),
            ("text/html; a=b; CHARSET = gbk ", Some("gbk")),
            ("text/html; a=\"b;charset=c\";charset=d", Some("d")),
            ("text/html; charset; charset=e", Some("e")),
            ("text/html; charset=; charset=f", Some("f")),
            ("text/html; charset=g; charset=h", Some("g")),
            ("text/html; xcharset=i", None),
            ("text/html; charset=\"j", Some("j")),
            ("text/html;;;=;charset=k", Some("k")),
            ("", None),
        ] {
            assert_eq!(charset_parameter(mime), want, "{mime:?}");
        }
    }
}
