//! What is wrong in a settings file, told without the secrets that stand in it.
//!
//! The TOML library shows the line that an error is in, and says what it found there.
//! Both can be a password.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue, Error},
};

/// The keys whose values can hold secrets.
const SECRET_KEYS: [&str; 4] = ["headers", "credentials", "proxy", "proxies"];

/// The error of reading `text`, for people: with the line that it is in, unless that line
/// may hold a secret.
pub(crate) fn told(text: &str, error: &Error) -> String {
    // An error that is nowhere may be anywhere.
    let line = error.span().map_or(0..text.len(), |span| line_at(text, span.start));
    let number = 1 + text.bytes().take(line.start).filter(|byte| *byte == b'\n').count();
    let without_line = || format!("line {number}: {}", error.message());
    let names_a_key = ["unknown field ", "missing field "];
    match DeTable::parse(text) {
        // What is no TOML is told by its signs, and no value is in the message.
        Err(_) => without_line(),
        // Nor in these. The line is left out, as its key may be a secret's, misspelt.
        Ok(_) if names_a_key.iter().any(|start| error.message().starts_with(start)) => {
            without_line()
        }
        Ok(table) => match secret_key(table.get_ref(), &line) {
            Some(key) => format!(
                "line {number}: {key} cannot be read; the line is not shown, as it may hold a secret"
            ),
            None => error.to_string(),
        },
    }
}

/// Where the line stands that this byte is in.
fn line_at(text: &str, byte: usize) -> Range<usize> {
    let (before, after) = text.as_bytes().split_at(byte.min(text.len()));
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let length = after.iter().position(|byte| *byte == b'\n').unwrap_or(after.len());
    start..before.len() + length
}

/// The key that can hold secrets, and has some of its value in that part of the text.
fn secret_key(table: &DeTable<'_>, part: &Range<usize>) -> Option<&'static str> {
    let holds = |key: &str| {
        let entry = table.iter().find(|(name, _)| name.get_ref() == key);
        entry.is_some_and(|(_, value)| touches(value, part))
    };
    SECRET_KEYS.into_iter().find(|key| holds(key))
}

/// Whether the value, or one in it, has something in that part. A table's own span is only
/// that of its header.
fn touches(value: &Spanned<DeValue<'_>>, part: &Range<usize>) -> bool {
    let meets = |span: Range<usize>| span.start <= part.end && part.start <= span.end;
    let inside = match value.get_ref() {
        DeValue::Array(values) => values.iter().any(|value| touches(value, part)),
        DeValue::Table(table) => {
            table.iter().any(|(key, value)| meets(key.span()) || touches(value, part))
        }
        _ => false,
    };
    inside || meets(value.span())
}
