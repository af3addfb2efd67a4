//! Text from the web, made safe to print.
//!
//! [`Untrusted`] carries such text, and is how it gets into a sentence: one line, and not
//! too long. What prints and logs passes all that it writes through [`printable`],
//! [`one_line`] or [`printable_json`] besides, so that what someone forgot, or a library
//! said, does no harm.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// Text that someone else wrote, borrowed or owned. Only its display can be printed: that
/// has no control characters, terminal escapes or bidirectional marks, and ends after
/// [`CHARS_MAX`] characters.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Untrusted<T>(T);

impl<T: AsRef<str>> Untrusted<T> {
    /// Takes a text for someone else's.
    pub const fn new(text: T) -> Self {
        Self(text)
    }

    /// The text as it was written: to be compared, stored or sent, and not to be printed.
    pub fn raw(&self) -> &str {
        self.0.as_ref()
    }
}

impl From<String> for Untrusted<String> {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Untrusted<String> {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Characters that are displayed; what follows is cut off with an ellipsis.
pub const CHARS_MAX: usize = 200;

impl<T: AsRef<str>> fmt::Display for Untrusted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, char) in self.raw().chars().enumerate() {
            if index == CHARS_MAX {
                return f.write_char('…');
            }
            if is_unsafe(char) {
                write!(f, "{}", char.escape_unicode())?;
            } else {
                f.write_char(char)?;
            }
        }
        Ok(())
    }
}

impl<T: AsRef<str>> fmt::Debug for Untrusted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Text with the characters spelled out that [`Untrusted`] spells out, but for line feeds
/// and tabs: whole pages and tables stay what they are.
pub fn printable(text: &str) -> Cow<'_, str> {
    spelled_out(text, |char| is_unsafe(char) && !matches!(char, '\n' | '\t'))
}

/// As [`printable`], and on one line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    spelled_out(text, is_unsafe)
}

fn spelled_out(text: &str, is_unsafe: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut printable = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if is_unsafe(char) {
            printable.extend(char.escape_unicode());
        } else {
            printable.push(char);
        }
    }
    Cow::Owned(printable)
}

/// JSON with the characters that [`Untrusted`] spells out as JSON's escapes: the same
/// value, and safe to print. `json` has no such characters outside of strings but
/// line feeds, which stay.
pub fn printable_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for char in json.chars() {
        if is_unsafe(char) && char != '\n' {
            // All of them are in the plane that four digits reach.
            let _ = write!(text, "\\u{:04x}", u32::from(char));
        } else {
            text.push(char);
        }
    }
    text
}

/// C0 and C1 controls, line and paragraph separators, and the marks that turn
/// or hide what follows them.
fn is_unsafe(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_bidi_marks_are_spelled_out() {
        assert_eq!(
            Untrusted::new("a\x1b[31mb\u{202e}c\u{9b}\n").to_string(),
            r"a\u{1b}[31mb\u{202e}c\u{9b}\u{a}"
        );
        assert_eq!(Untrusted::new("caf\u{e9} 漢字").to_string(), "café 漢字");
    }

    #[test]
    fn what_carries_text_shows_no_more_in_an_error_or_a_dump_of_it() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "it is shown")]
        struct Holder {
            text: Untrusted<String>,
        }
        let text = Untrusted::from("a\x1b]52;c;x\x07\u{202e}");
        assert_eq!(text.raw(), "a\x1b]52;c;x\x07\u{202e}");
        let shown = format!("{:?}", Holder { text });
        assert_eq!(shown, r#"Holder { text: "a\u{1b}]52;c;x\u{7}\u{202e}" }"#);
    }

    #[test]
    fn what_is_printed_keeps_its_lines_and_what_is_logged_is_one() {
        let text = "a\tb\n\x1b]52;c;x\x07\u{85}\u{2028}\u{7f}\r\n";
        assert_eq!(printable(text), "a\tb\n\\u{1b}]52;c;x\\u{7}\\u{85}\\u{2028}\\u{7f}\\u{d}\n");
        assert_eq!(one_line("a\tb\nc"), r"a\u{9}b\u{a}c");
        assert!(matches!(printable("é 漢\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn printable_json_means_the_same() {
        let value = serde_json::json!({"a": "\u{9b}31m\u{202e}x\u{1b}\n", "é漢": ["\u{feff}"]});
        let text = printable_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(text.contains(r"\u009b31m\u202ex\u001b\n") && text.contains("é漢"), "{text}");
        assert!(!text.chars().any(|char| is_unsafe(char) && char != '\n'), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn long_text_is_cut() {
        let text = Untrusted::new(&"x".repeat(500)).to_string();
        assert_eq!(text.chars().count(), CHARS_MAX + 1);
        assert!(text.ends_with('…'));
    }
}
