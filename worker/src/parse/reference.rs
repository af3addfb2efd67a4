//! Character references in attribute values and titles, and white space.
//!
//! The tables are html5gum's: only pieces that need them go through it, as the
//! tokenizer that finds links leaves references as they are.

use std::borrow::Cow;

use html5gum::{State, Token, Tokenizer};

/// The value of an attribute as written, decoded by the rules for attributes:
/// `&amp;` is an ampersand, `&copy=1` stays what it is.
pub(super) fn attribute(raw: &str) -> Cow<'_, str> {
    if !raw.bytes().any(|byte| matches!(byte, b'&' | 0)) {
        return Cow::Borrowed(raw);
    }
    Cow::Owned(decode_query(raw).unwrap_or_else(|| decode_by_tables(raw)))
}

/// The text of an element that holds nothing else, decoded by the rules for
/// such text.
pub(super) fn text(raw: &str) -> Cow<'_, str> {
    if !raw.bytes().any(|byte| matches!(byte, b'&' | 0)) {
        return Cow::Borrowed(raw);
    }
    let mut tokenizer = Tokenizer::new(raw);
    tokenizer.set_state(State::RcData);
    let mut decoded = Vec::with_capacity(raw.len());
    for Ok(token) in tokenizer {
        if let Token::String(piece) = token {
            decoded.extend_from_slice(&piece);
        }
    }
    Cow::Owned(into_string(decoded))
}

/// `text` without white space at its ends, one space for each run of it within,
/// and `chars_max` characters of that.
pub(super) fn folded(text: &str, chars_max: usize) -> String {
    let mut folded = String::new();
    let mut left = chars_max;
    for word in text.split_ascii_whitespace() {
        if left > 0 && !folded.is_empty() {
            folded.push(' ');
            left -= 1;
        }
        for char in word.chars().take(left) {
            folded.push(char);
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    folded.truncate(folded.trim_end().len());
    folded
}

/// Decodes what nearly all links have: `&amp;`, and ampersands that are no
/// references, because nothing or `name=` follows. None if there are others.
fn decode_query(raw: &str) -> Option<String> {
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find(['&', '\0']) {
        let (before, from) = rest.split_at(at);
        decoded.push_str(before);
        let after = from.strip_prefix('&')?;
        decoded.push('&');
        rest = after;
        if let Some(after) = after.strip_prefix("amp;") {
            rest = after;
            continue;
        }
        // The longest name that matches ends within these letters and digits. It
        // has no semicolon, so before a further one, or `=`, it is no reference.
        let name = after.bytes().take_while(u8::is_ascii_alphanumeric).count();
        match (name, after.as_bytes().get(name)) {
            (0, Some(b'#')) => return None,
            (0, _) | (_, Some(b'=')) => {}
            _ => return None,
        }
    }
    decoded.push_str(rest);
    Some(decoded)
}

fn decode_by_tables(raw: &str) -> String {
    let quote = if raw.contains('"') { '\'' } else { '"' };
    let escaped = match quote {
        '\'' => raw.replace('\'', "&#39;"),
        _ => raw.to_owned(),
    };
    let tag = format!("<a b={quote}{escaped}{quote}>");
    for Ok(token) in Tokenizer::new(tag.as_str()) {
        if let Token::StartTag(mut tag) = token {
            let value = tag.attributes.remove(b"b".as_slice());
            return into_string(value.map(|value| value.value.0).unwrap_or_default());
        }
    }
    String::new()
}

fn into_string(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_in_attributes() {
        for (raw, want) in [
            ("/plain?a=1", "/plain?a=1"),
            ("?a=1&b=2", "?a=1&b=2"),
            ("?a=1&amp;b=2&amp;c", "?a=1&b=2&c"),
            ("?a&&amp;amp;", "?a&&amp;"),
            ("?a=1&copy=2", "?a=1&copy=2"),
            ("?a=1&copy2", "?a=1&copy2"),
            ("?a=1&copy", "?a=1©"),
            ("?a=1&copy&amp;b", "?a=1©&b"),
            ("?a=1&copy;=2", "?a=1©=2"),
            ("&notit;", "&notit;"),
            ("&notin;", "∉"),
            ("&not;in", "¬in"),
            ("&nosuch;&nosuch=", "&nosuch;&nosuch="),
            ("&AMP;&AMP", "&&"),
            ("&#65;&#x42;&#67", "ABC"),
            ("&#0;&#x80;&#xd800;&#x110000;", "\u{fffd}€\u{fffd}\u{fffd}"),
            ("&#", "&#"),
            ("&#;&#x;&", "&#;&#x;&"),
            ("a\0b", "a\u{fffd}b"),
            ("'&lt;\"", "'<\""),
            ("\"&quot;&apos;'", "\"\"''"),
            ("\"'&amp'\"", "\"'&'\""),
            ("é&eacute;", "éé"),
            ("&NotEqualTilde;", "≂̸"),
        ] {
            assert_eq!(attribute(raw), want, "{raw:?}");
        }
    }

    #[test]
    fn references_in_text() {
        for (raw, want) in [
            ("A &amp; B", "A & B"),
            ("a &copy=1 &ampb", "a ©=1 &b"),
            ("<b>&lt;</b></title x", "<b><</b></title x"),
            ("nul \0 &#0;", "nul \u{fffd} \u{fffd}"),
            ("no references <i>", "no references <i>"),
        ] {
            assert_eq!(text(raw), want, "{raw:?}");
        }
    }

    #[test]
    fn white_space_is_folded() {
        assert_eq!(folded(" a\n\t b \u{a0}c ", 100), "a b \u{a0}c");
        assert_eq!(folded("", 100), "");
        assert_eq!(folded("ab cd", 4), "ab c");
        assert_eq!(folded("ab cd", 3), "ab");
        assert_eq!(folded("éé é", 2), "éé");
    }

    #[test]
    fn the_quick_way_decodes_as_the_tables_do() {
        let pieces = ["&", "amp", ";", "=", "a", "copy", "lt", "#", "38", "x", "/", "not", "in"];
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let count = rng.usize(0..8);
            let raw: String = (0..count).map(|_| pieces[rng.usize(0..pieces.len())]).collect();
            if let Some(quick) = decode_query(&raw) {
                assert_eq!(quick, decode_by_tables(&raw), "{raw:?}");
            }
        }
    }
}
