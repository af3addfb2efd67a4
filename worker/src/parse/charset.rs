//! Bytes to text: which charset, and why we think so.
//!
//! The order is the HTML standard's: byte order mark, Content-Type header,
//! `<meta>`; then, for pages that declare nothing, the crawl's own list and a
//! guess. Declarations are believed even when they are wrong, as browsers do.
//! Any bytes become text: what does not fit its charset is replaced, and the
//! page marked as lossy. Labels are those of the WHATWG Encoding standard, of
//! which those of its "replacement" encoding count as unknown: browsers show
//! nothing of such a page, and a crawl loses nothing by a guess.

use std::{borrow::Cow, str};

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{DecoderResult, Encoding, UTF_8};
use trawl_shared::page::{Charset, CharsetSource};

use super::prescan::prescan;

/// Bytes from the first non-ASCII one that a guess looks at. More would not make
/// it better, only slower: it reads some 20 MB a second.
const GUESS_BYTES_MAX: usize = 64 * 1024;

/// The encoding of a label such as `latin1`, if it has one.
pub(super) fn encoding(label: &[u8]) -> Option<&'static Encoding> {
    Encoding::for_label_no_replacement(label)
}

/// What a body says, and how that was found.
#[derive(Debug)]
pub(super) struct Decoded<'a> {
    /// The text, without a byte order mark. Valid UTF-8 is borrowed.
    pub(super) text: Cow<'a, str>,
    /// How the bytes were read.
    pub(super) charset: Charset,
}

/// Reads `body`, sent as `content_type`. `list` is tried in order on a body that
/// declares nothing; `is_whole` tells that the body was not cut, so that half a
/// character at its end is an error.
pub(super) fn decode<'a>(
    body: &'a [u8],
    content_type: Option<&str>,
    list: &[&'static Encoding],
    is_whole: bool,
) -> Decoded<'a> {
    if let Some((encoding, mark)) = Encoding::for_bom(body) {
        return lossily(&body[mark..], encoding, CharsetSource::Mark);
    }
    if let Some(encoding) = content_type.and_then(header_encoding) {
        return lossily(body, encoding, CharsetSource::Header);
    }
    if let Some(encoding) = prescan(body) {
        return lossily(body, encoding, CharsetSource::Meta);
    }
    for &encoding in list {
        if let Some(text) = strictly(body, encoding, is_whole) {
            let lossy = false;
            return decoded(text, encoding, CharsetSource::List, lossy);
        }
    }
    guess(body, is_whole)
}

fn decoded<'a>(
    text: Cow<'a, str>,
    encoding: &'static Encoding,
    by: CharsetSource,
    lossy: bool,
) -> Decoded<'a> {
    let name = encoding.name().to_owned();
    Decoded { text, charset: Charset { name, by, lossy } }
}

fn lossily<'a>(body: &'a [u8], encoding: &'static Encoding, by: CharsetSource) -> Decoded<'a> {
    let (text, lossy) = encoding.decode_without_bom_handling(body);
    decoded(text, encoding, by, lossy)
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

fn guess(body: &[u8], is_whole: bool) -> Decoded<'_> {
    let error = match str::from_utf8(body) {
        Ok(text) => return decoded(Cow::Borrowed(text), UTF_8, CharsetSource::Guess, false),
        Err(error) => error,
    };
    if !is_whole && error.error_len().is_none() {
        return lossily(body, UTF_8, CharsetSource::Guess);
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
    lossily(body, encoding, CharsetSource::Guess)
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
        let decoded = decode(body, content_type, &list, true);
        let charset = decoded.charset;
        let lossy = if charset.lossy { " lossy" } else { "" };
        (decoded.text.into_owned(), format!("{} {:?}{lossy}", charset.name, charset.by))
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
        let cut = decode(half, None, &[], false);
        assert_eq!(cut.text, "中国 \u{fffd}");
        assert_eq!((cut.charset.name.as_str(), cut.charset.lossy), ("UTF-8", true));

        let gbk = bytes("d6d0 b9");
        let list = [encoding(b"gbk").unwrap()];
        assert_eq!(decode(&gbk, None, &list, false).text, "中");
        assert_eq!(decode(&gbk, None, &list, false).charset.by, CharsetSource::List);
        assert_eq!(decode(&gbk, None, &list, true).charset.by, CharsetSource::Guess);
    }

    #[test]
    fn valid_utf8_is_not_copied() {
        let page = "<meta charset=utf-8>é".as_bytes();
        for header in [None, Some("text/html;charset=utf-8")] {
            assert!(matches!(decode(page, header, &[], true).text, Cow::Borrowed(_)));
        }
        assert!(matches!(decode("é".as_bytes(), None, &[], true).text, Cow::Borrowed(_)));
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
