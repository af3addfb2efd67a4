//! Bytes to text: a line is the Content-Type header, the rest is the body.

use std::time::Duration;

use encoding_rs::Encoding;
use trawl_shared::page::CharsetSource;
use trawl_worker::parse::decode;

use super::split;

pub(super) fn run(data: &[u8]) {
    let (header, body) = split(data, b'\n');
    let header = String::from_utf8_lossy(header);
    let header = (!header.is_empty()).then_some(&*header);
    let list = [encoding_rs::UTF_8, encoding_rs::GB18030, encoding_rs::WINDOWS_1251];
    for (list, is_whole) in [(&list[..], true), (&list, false), (&[], true), (&[], false)] {
        let decoded = decode(body, header, list, is_whole, &|| Duration::ZERO);
        let (text, charset) = (&*decoded.text, &decoded.charset);
        // Each byte becomes a replacement character at worst.
        assert!(text.len() <= 3 * body.len(), "{} bytes of {}", text.len(), body.len());
        let encoding = Encoding::for_label(charset.name.as_bytes());
        assert!(encoding.is_some_and(|known| known.name() == charset.name), "{}", charset.name);
        assert!(charset.name != "replacement", "such a page would have no text");
        // Half a character at the end of a cut body is passed over.
        if is_whole && !charset.lossy && charset.name == "UTF-8" {
            let mark = if charset.by == CharsetSource::Mark { 3 } else { 0 };
            assert_eq!(str::from_utf8(&body[mark..]).ok(), Some(text));
        }
        // One that begins with NULs may be taken for UTF-16.
        let is_plain = str::from_utf8(body).is_ok() && !body.contains(&0);
        if charset.by == CharsetSource::Guess && is_plain {
            assert_eq!((&*charset.name, charset.lossy), ("UTF-8", false));
        }
        let again = decode(body, header, list, is_whole, &|| Duration::ZERO);
        assert!(again.text == text && again.charset == *charset, "the same bytes, the same text");
    }
}
