//! A CDXJ index of the segments: SURT key, time, and where each response is,
//! sorted bytewise, as replay tools search it.
//!
//! The lines are those that `cdxj-indexer` 1.5 makes of response records, byte for
//! byte: JSON in Python's spelling, numbers as strings, the digest with its
//! algorithm. (It would list our metadata records as well; nobody replays those.)

use std::{fmt::Write, path::Path};

use super::{Counted, ExportError, Sink, surt::surt};
use crate::{
    pages::{Answer, ScannedPage},
    sorted::Sorted,
};

/// Writes a CDXJ index.
pub(super) struct Cdxj {
    lines: Sorted,
}

impl Cdxj {
    /// Lines that do not fit into memory are held back in `tmp`.
    pub(super) fn new(tmp: &Path) -> Self {
        Self { lines: Sorted::new(tmp) }
    }
}

impl Sink for Cdxj {
    fn page(&mut self, page: &ScannedPage<'_>, _: &mut Counted<'_>) -> Result<bool, ExportError> {
        self.lines.push(line(page, &page.answer()?).as_bytes())?;
        Ok(true)
    }

    fn finish(&mut self, out: &mut Counted<'_>) -> Result<(), ExportError> {
        self.lines.finish(|line| out.write(&[line, b"\n"]))
    }
}

fn line(page: &ScannedPage<'_>, answer: &Answer<'_>) -> String {
    let field = |name| page.response.field(name).unwrap_or_default();
    let url = field("WARC-Target-URI");
    let time: String = field("WARC-Date").chars().filter(char::is_ascii_digit).take(14).collect();
    let fields = [
        ("url", Some(url.to_owned())),
        ("mime", answer.header("content-type").map(mime)),
        ("status", answer.status().map(str::to_owned)),
        ("digest", page.response.field("WARC-Payload-Digest").map(str::to_owned)),
        ("length", Some(page.place.response_len.to_string())),
        ("offset", Some(page.place.offset.to_string())),
        ("filename", Some(page.file_name())),
    ];
    let mut line = format!("{} {time} ", surt(url));
    let mut separator = '{';
    for (name, value) in fields {
        if let Some(value) = value {
            line.push(separator);
            if separator == ',' {
                line.push(' ');
            }
            separator = ',';
            push_string(name, &mut line);
            line.push_str(": ");
            push_string(&value, &mut line);
        }
    }
    line.push('}');
    line
}

/// The media type without its parameters. Header bytes are UTF-8 if they can be,
/// and Latin-1 otherwise.
fn mime(value: &[u8]) -> String {
    let value = match str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().map(|byte| char::from(*byte)).collect(),
    };
    let end = |char: char| char == ';' || char.is_whitespace();
    value.trim().split(end).next().unwrap_or_default().to_owned()
}

/// A JSON string of ASCII only, as Python's `json.dumps` writes it.
fn push_string(text: &str, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(char),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_media_type_is_what_stands_before_its_parameters() {
        for (value, want) in [
            (&b"text/html; charset=utf-8"[..], "text/html"),
            (b"text/html;charset=utf-8", "text/html"),
            (b" text/html x", "text/html"),
            (b"; x", ""),
            (b"", ""),
            (b"caf\xe9", "caf\u{e9}"),
            ("café".as_bytes(), "café"),
            (b"a\xa0b", "a"),
        ] {
            assert_eq!(mime(value), want);
        }
    }

    #[test]
    fn strings_are_spelled_as_python_does() {
        let mut out = String::new();
        push_string("a\"b\\c\n\u{1}\u{7f}é😀/", &mut out);
        // json.dumps("a\"b\\c\n\x01\x7fé😀/")
        assert_eq!(out, r#""a\"b\\c\n\u0001\u007f\u00e9\ud83d\ude00/""#);
    }
}
