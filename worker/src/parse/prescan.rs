//! The charset that a page's first bytes declare.
//!
//! This is the HTML standard's "prescan a byte stream to determine its
//! encoding", step by step, on the first 1,024 bytes: `<meta charset>`,
//! `<meta http-equiv=content-type>`, then the XML declaration. Where they declare
//! nothing, `<meta>` elements count that come a little later, for which a browser
//! would start over; but none that a script writes.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};

use super::charset::encoding;

/// Bytes that are looked at.
const PRESCAN_BYTES: usize = 1024;

/// Bytes that are looked at if those declare nothing.
const LATE_BYTES: usize = 64 * 1024;

/// The encoding that the start of `body` declares.
pub(super) fn prescan(body: &[u8]) -> Option<&'static Encoding> {
    let first = |count: usize| &body[..body.len().min(count)];
    let head = first(PRESCAN_BYTES);
    match head {
        [b'<', 0, b'?', 0, b'x', 0, ..] => return Some(UTF_16LE),
        [0, b'<', 0, b'?', 0, b'x', ..] => return Some(UTF_16BE),
        _ => {}
    }
    let metas = |bytes, knows_text| Cursor { bytes, at: 0, knows_text }.prescan();
    let early = metas(head, false).or_else(|| xml_encoding(head));
    let late = first(LATE_BYTES);
    early.or_else(|| if may_declare(late) { metas(late, true) } else { None })
}

/// Whether there is what looks like a declaration: on most pages that declare nothing early
/// there is none, and to look for that takes a tenth of the time.
fn may_declare(bytes: &[u8]) -> bool {
    let begins = |text: &[u8], name: &[u8]| {
        text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
    };
    let metas = bytes.split(|byte| *byte == b'<').filter(|tag| begins(tag, b"meta"));
    metas.flat_map(|tag| (0..tag.len()).map(|at| &tag[at..])).any(|rest| begins(rest, b"charset"))
}

/// Elements in which there is nothing but text.
const TEXT_ELEMENTS: [&[u8]; 8] =
    [b"script", b"style", b"textarea", b"title", b"xmp", b"iframe", b"noembed", b"noframes"];

/// A place in the bytes. Functions that need more bytes than there are return
/// none, which ends the prescan.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether what stands in [`TEXT_ELEMENTS`] is passed over, which the standard's steps
    /// do not.
    knows_text: bool,
}

impl Cursor<'_> {
    fn prescan(&mut self) -> Option<&'static Encoding> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            if rest.starts_with(b"<!--") {
                // The dashes may be those of the opening.
                self.at += 2;
                self.skip_past(b"-->")?;
            } else if is_meta(rest) {
                self.at += 5;
                if let Some(encoding) = self.meta()? {
                    return Some(encoding);
                }
                self.at += 1;
            } else if is_tag(rest) {
                let from = self.at + 1;
                self.skip_while(|byte| !is_space(byte) && byte != b'>')?;
                let name = self.bytes.get(from..self.at)?;
                while self.attribute()?.is_some() {}
                self.at += 1;
                let is_text = |text: &&[u8]| name.eq_ignore_ascii_case(text);
                if self.knows_text && TEXT_ELEMENTS.iter().any(is_text) {
                    self.skip_to_end_of(name)?;
                }
            } else if matches!(rest, [b'<', b'!' | b'/' | b'?', ..]) {
                self.skip_past(b">")?;
            } else {
                self.at += 1;
            }
        }
    }

    /// Goes to the end tag of an element.
    fn skip_to_end_of(&mut self, name: &[u8]) -> Option<()> {
        let rest = self.bytes.get(self.at..)?;
        let ends = |at: &usize| {
            let tag = &rest[*at..];
            tag.starts_with(b"</")
                && tag.get(2..2 + name.len()).is_some_and(|end| end.eq_ignore_ascii_case(name))
        };
        self.at += (0..rest.len()).find(ends)?;
        Some(())
    }

    /// What a `<meta>` declares; the inner none if nothing.
    fn meta(&mut self) -> Option<Option<&'static Encoding>> {
        let mut names = Vec::new();
        let mut is_pragma = false;
        let mut needs_pragma = false;
        let mut found = None;
        while let Some((name, value)) = self.attribute()? {
            // There may be thousands of others.
            let matters = matches!(&*name, b"http-equiv" | b"content" | b"charset");
            if !matters || names.contains(&name) {
                continue;
            }
            match name.as_slice() {
                b"http-equiv" => is_pragma |= value == b"content-type",
                b"content" if found.is_none() => {
                    found = label_in_content(&value).and_then(encoding);
                    needs_pragma = found.is_some();
                }
                b"charset" => {
                    found = encoding(&value);
                    needs_pragma = false;
                }
                _ => {}
            }
            names.push(name);
        }
        let found = found.filter(|_| is_pragma || !needs_pragma).map(as_declared);
        // That anyone should mean this one is a mistake.
        Some(found.map(|found| if found == X_USER_DEFINED { WINDOWS_1252 } else { found }))
    }

    /// The next attribute of a tag, its name and value in lower case; the inner
    /// none at the tag's end.
    fn attribute(&mut self) -> Option<Option<(Vec<u8>, Vec<u8>)>> {
        self.skip_while(|byte| is_space(byte) || byte == b'/')?;
        let (mut name, mut value) = (Vec::new(), Vec::new());
        if self.peek()? == b'>' {
            return Some(None);
        }
        loop {
            match self.peek()? {
                b'=' if !name.is_empty() => break,
                b'/' | b'>' => return Some(Some((name, value))),
                byte if is_space(byte) => {
                    self.skip_while(is_space)?;
                    if self.peek()? != b'=' {
                        return Some(Some((name, value)));
                    }
                    break;
                }
                byte => name.push(byte.to_ascii_lowercase()),
            }
            self.at += 1;
        }
        self.at += 1;
        self.skip_while(is_space)?;
        match self.peek()? {
            quote @ (b'"' | b'\'') => {
                self.at += 1;
                while self.peek()? != quote {
                    value.push(self.peek()?.to_ascii_lowercase());
                    self.at += 1;
                }
                self.at += 1;
            }
            _ => {
                while !is_space(self.peek()?) && self.peek()? != b'>' {
                    value.push(self.peek()?.to_ascii_lowercase());
                    self.at += 1;
                }
            }
        }
        Some(Some((name, value)))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_while(&mut self, skips: impl Fn(u8) -> bool) -> Option<()> {
        while skips(self.peek()?) {
            self.at += 1;
        }
        Some(())
    }

    fn skip_past(&mut self, end: &[u8]) -> Option<()> {
        let rest = self.bytes.get(self.at..)?;
        self.at += find(rest, end)? + end.len();
        Some(())
    }
}

/// UTF-16 cannot be declared in ASCII bytes.
fn as_declared(found: &'static Encoding) -> &'static Encoding {
    if found == UTF_16LE || found == UTF_16BE { UTF_8 } else { found }
}

/// The label in the `content` of a `<meta>`, as in `text/html; charset=utf-8`.
fn label_in_content(content: &[u8]) -> Option<&[u8]> {
    let mut rest = content;
    loop {
        rest = &rest[find(rest, b"charset")? + b"charset".len()..];
        if let Some(value) = rest.trim_ascii_start().strip_prefix(b"=") {
            let value = value.trim_ascii_start();
            return match value {
                [quote @ (b'"' | b'\''), quoted @ ..] => {
                    let end = quoted.iter().position(|byte| byte == quote)?;
                    Some(&quoted[..end])
                }
                _ => value.split(|byte| is_space(*byte) || *byte == b';').next(),
            };
        }
    }
}

/// The encoding of an XML declaration.
fn xml_encoding(head: &[u8]) -> Option<&'static Encoding> {
    let rest = head.strip_prefix(b"<?xml")?;
    let declaration = &rest[..find(rest, b">")?];
    let named = &declaration[find(declaration, b"encoding")? + b"encoding".len()..];
    let (quote, value) = trim_low(trim_low(named).strip_prefix(b"=")?).split_first()?;
    if !matches!(quote, b'"' | b'\'') {
        return None;
    }
    let label = &value[..value.iter().position(|byte| byte == quote)?];
    if label.iter().any(|byte| *byte <= b' ') {
        return None;
    }
    encoding(label).map(as_declared)
}

fn trim_low(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte > b' ').unwrap_or(bytes.len());
    &bytes[start..]
}

fn is_meta(bytes: &[u8]) -> bool {
    let Some((tag, rest)) = bytes.split_at_checked(5) else { return false };
    let ends = rest.first().is_some_and(|byte| is_space(*byte) || *byte == b'/');
    ends && tag.eq_ignore_ascii_case(b"<meta")
}

fn is_tag(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [b'<', b'a'..=b'z' | b'A'..=b'Z', ..] | [b'<', b'/', b'a'..=b'z' | b'A'..=b'Z', ..]
    )
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | 0x0c | b'\r' | b' ')
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::clock::cpu_time;

    #[test]
    fn a_declaration_that_comes_late_is_none_of_a_scripts() {
        let found = |page: String| prescan(page.as_bytes()).map(|it| it.name()).unwrap_or("");
        let far = " ".repeat(PRESCAN_BYTES);
        for text in ["script", "STYLE", "textarea", "title", "iframe"] {
            let script = format!("<{text} a='>'>w('<meta charset=utf-8></x>')</{text}>");
            assert_eq!(found(format!("{far}{script}")), "", "{text}");
            assert_eq!(found(format!("{far}{script}<meta charset=gbk>")), "GBK", "{text}");
            assert_eq!(found(format!("{script}{far}<meta charset=gbk>")), "UTF-8", "as standard");
        }
        assert_eq!(found(format!("{far}<script><meta charset=gbk>")), "");
        assert_eq!(found(format!("{far}<scripted><meta charset=gbk>")), "GBK");
    }

    #[test]
    fn declarations_of_the_first_bytes() {
        for (head, want) in [
            ("<meta charset=gbk>", "GBK"),
            ("<META CHARSET='GBK'>", "GBK"),
            ("<meta\ncharset = \"gbk\" />", "GBK"),
            ("<meta/charset=gbk/>", ""), // The label is then "gbk/".
            ("<meta charset=gbk charset=big5>", "GBK"),
            ("<meta charset=nonsense><meta charset=gbk>", "GBK"),
            ("<meta charset=utf-16>", "UTF-8"),
            ("<meta charset=x-user-defined>", "windows-1252"),
            ("<meta charset=iso-2022-kr>", ""),
            ("<metacharset=gbk>", ""),
            ("<meta name=x content='text/html; charset=gbk'>", ""),
            ("<meta http-equiv=content-type content='text/html; charset=gbk'>", "GBK"),
            ("<meta content='text/html;charset=gbk' http-equiv='Content-Type'>", "GBK"),
            ("<meta http-equiv=content-type content='charset charset = \"gbk\"'>", "GBK"),
            ("<meta http-equiv=content-type content='charset=\"gbk'>", ""),
            ("<meta http-equiv=content-type content='charset=gbk;x' charset=big5>", "Big5"),
            ("<meta http-equiv=refresh content='charset=gbk'>", ""),
            ("<!-- <meta charset=gbk> --><meta charset=big5>", "Big5"),
            ("<!--><meta charset=gbk>", "GBK"),
            ("<a title='<meta charset=gbk>'><meta charset=big5>", "Big5"),
            ("</a title='<meta charset=gbk>'><meta charset=big5>", "Big5"),
            ("<!x '<meta charset=gbk>", ""),
            ("< meta charset=gbk><script>'<meta charset=gbk>'", "GBK"),
            ("<? x><meta charset=gbk>", "GBK"),
            ("<meta charset=gbk", ""),
            ("<?xml version='1.0' encoding=\"gbk\"?><html>", "GBK"),
            ("<?xml encoding = 'utf-16' ?>", "UTF-8"),
            ("<?xml encoding='g bk'?>", ""),
            ("<?xml?> encoding='gbk'", ""),
            ("<?xml encoding='gbk'?><meta charset=big5>", "Big5"),
            ("<\0?\0x\0", "UTF-16LE"),
            ("\0<\0?\0x", "UTF-16BE"),
            ("", ""),
        ] {
            let got = prescan(head.as_bytes()).map_or("", Encoding::name);
            assert_eq!(got, want, "{head:?}");
        }
    }

    #[test]
    fn the_first_bytes_count_most_and_those_after_64_kib_not_at_all() {
        let found = |page: String| prescan(page.as_bytes()).map_or("", Encoding::name);
        let page = |before: usize| format!("{}<meta charset=gbk>", " ".repeat(before));
        assert_eq!(found(page(1024 - 18)), "GBK");
        assert_eq!(found(page(1024 - 17)), "GBK");
        assert_eq!(found(page(64 * 1024 - 18)), "GBK");
        assert_eq!(found(page(64 * 1024 - 17)), "");
        let xml = "<?xml encoding='big5'?>".to_owned();
        assert_eq!(found(xml.clone() + &page(900)), "GBK");
        assert_eq!(found(xml + &page(2_000)), "Big5");
        // A comment that does not end in the first bytes hides nothing for good.
        assert_eq!(found(format!("<!--{}-->{}", " ".repeat(2_000), page(0))), "GBK");
    }

    #[test]
    fn a_declaration_of_many_attributes_takes_no_time() {
        let attributes: String = (0..10_000).map(|n| format!(" a{n}")).collect();
        let page = format!("<meta{attributes} charset=gbk>");
        let before = cpu_time();
        assert_eq!(prescan(page.as_bytes()).map(Encoding::name), Some("GBK"));
        assert!(cpu_time() - before < std::time::Duration::from_millis(200));
    }
}
