//! Text from the web, made safe to print.

use std::fmt::{self, Write};

/// Text that someone else wrote. Its display has no control characters, terminal
/// escapes or bidirectional marks, and ends after [`CHARS_MAX`] characters.
#[derive(Clone, Copy, Debug)]
pub struct Untrusted<'a>(pub &'a str);

/// Characters that are displayed; what follows is cut off with an ellipsis.
pub const CHARS_MAX: usize = 200;

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, char) in self.0.chars().enumerate() {
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
            Untrusted("a\x1b[31mb\u{202e}c\u{9b}\n").to_string(),
            r"a\u{1b}[31mb\u{202e}c\u{9b}\u{a}"
        );
        assert_eq!(Untrusted("caf\u{e9} 漢字").to_string(), "café 漢字");
    }

    #[test]
    fn long_text_is_cut() {
        let text = Untrusted(&"x".repeat(500)).to_string();
        assert_eq!(text.chars().count(), CHARS_MAX + 1);
        assert!(text.ends_with('…'));
    }
}
