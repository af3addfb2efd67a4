//! The SimHash of a page's text: pages that are nearly the same differ in few of its
//! bits (Charikar, "Similarity estimation techniques from rounding algorithms", STOC
//! 2002; with 64 bits as in Manku, Jain and Das Sarma, "Detecting near-duplicates for
//! web crawling", WWW 2007).
//!
//! Features are pairs of words that follow each other between tags, ASCII in lower
//! case, with every number the same number: pages that endless webs count up differ in
//! nothing else. Each counts once, so that what a page repeats does not drown the rest.
//! Whatever is hashed here has to be hashed so by every worker of a cluster.

use trawl_shared::trap::THIN;

/// Bytes of a text that are looked at.
const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Words that are hashed; more change hardly a bit.
const WORDS_MAX: usize = 4_096;

/// Different pairs of words that a text has at least, if it can be told from others.
const PAIRS_MIN: usize = 24;

/// The SimHash of an HTML text; [`THIN`] if it says hardly anything. None if that cannot be
/// told, since markup fills all that is looked at.
pub(super) fn simhash(text: &str) -> Option<u64> {
    let is_cut = text.len() > TEXT_BYTES_MAX;
    let text = &text.as_bytes()[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    let words = (Words { rest: text }).take(WORDS_MAX);
    let mut last = 0;
    let pair = |word| mixed(std::mem::replace(&mut last, word) ^ u64::rotate_left(word, 32));
    let mut pairs: Vec<u64> = words.map(pair).collect();
    pairs.sort_unstable();
    pairs.dedup();
    if pairs.len() < PAIRS_MIN {
        return (!is_cut).then_some(THIN);
    }
    let mut counts = [0i32; 64];
    for pair in pairs {
        for (bit, count) in counts.iter_mut().enumerate() {
            *count += if pair >> bit & 1 == 1 { 1 } else { -1 };
        }
    }
    let ones = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    // No text of many words is thin, however its bits fall.
    Some(ones.fold(0, |hash, (bit, _)| hash | 1 << bit).max(1))
}

/// The hashes of a text's words.
struct Words<'t> {
    rest: &'t [u8],
}

impl Iterator for Words<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        loop {
            let start = self.rest.iter().position(|byte| *byte == b'<' || is_in_word(*byte))?;
            self.rest = &self.rest[start..];
            if self.rest[0] != b'<' {
                break;
            }
            self.rest = behind_tag(self.rest);
        }
        let end = self.rest.iter().position(|byte| !is_in_word(*byte)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(hash(word))
    }
}

/// What follows a tag, with what is inside of scripts and styles.
fn behind_tag(text: &[u8]) -> &[u8] {
    let Some(end) = text.iter().position(|byte| *byte == b'>') else { return &[] };
    let (tag, rest) = text.split_at(end + 1);
    let is_raw =
        |name: &[u8]| tag.get(1..=name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    match is_raw(b"script") || is_raw(b"style") {
        true => {
            let close = rest.windows(2).position(|pair| pair == b"</");
            close.map_or(&[], |close| &rest[close..])
        }
        false => rest,
    }
}

fn is_in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// FNV-1a of a word, mixed.
fn hash(word: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut was_digit = false;
    for byte in word {
        let is_digit = byte.is_ascii_digit();
        if !(is_digit && was_digit) {
            let byte = if is_digit { b'0' } else { byte.to_ascii_lowercase() };
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        was_digit = is_digit;
    }
    mixed(hash)
}

/// A number whose bits each depend on all of this one's, as SplitMix64 ends.
fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use trawl_shared::trap::are_alike;

    use super::*;

    fn simhash(text: &str) -> u64 {
        super::simhash(text).unwrap()
    }

    #[test]
    fn a_page_whose_text_lies_behind_much_markup_is_not_taken_for_a_thin_one() {
        let style = format!("<style>{}</style>", "x".repeat(TEXT_BYTES_MAX));
        assert_eq!(super::simhash(&format!("{style}{}", prose(0, 100))), None);
        assert_eq!(super::simhash(&style[..1000]), Some(THIN));
    }

    /// A text of so many different words.
    fn prose(first: usize, words: usize) -> String {
        let word = |n: usize| {
            let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
            [letter(n), letter(n / 26), letter(n / 676), 'x'].iter().collect::<String>()
        };
        (first..first + words).map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pages_that_differ_in_numbers_and_tags_alone_are_the_same() {
        let text = prose(0, 100);
        let one = simhash(&format!("<p class=a>Item 17 of 2031-05-01</p><p>{text}"));
        let other = simhash(&format!(
            "<script>var x = 'other';</script><div>item 9999 OF 1999-12-31 <b>{text}"
        ));
        assert_eq!(one, other);
    }

    #[test]
    fn pages_that_differ_in_a_word_or_two_are_alike_and_others_are_not() {
        let text = prose(0, 600);
        let one = simhash(&text);
        assert!(are_alike(one, simhash(&format!("{text} more"))));
        assert!(!are_alike(one, simhash(&prose(600, 600))));
        assert!(!are_alike(one, simhash(&format!("{}{}", prose(0, 300), prose(900, 300)))));
    }

    #[test]
    fn a_page_of_few_words_is_thin() {
        assert_eq!(simhash(""), THIN);
        assert_eq!(simhash(&prose(0, PAIRS_MIN - 1)), THIN);
        assert_ne!(simhash(&prose(0, PAIRS_MIN)), THIN);
        assert_eq!(simhash(&"again and ".repeat(100)), THIN);
        for odd in ["<", "<script", "<script>", "<style></", "a<b", "&amp;<>é"] {
            assert_eq!(simhash(odd), THIN, "{odd:?}");
        }
    }
}
