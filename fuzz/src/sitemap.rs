//! Sitemaps and feeds: a line is the file's name, the rest is the file.

use super::{
    links::{check, page, parser},
    split,
};

pub(super) fn run(data: &[u8]) {
    let (name, body) = split(data, b'\n');
    let name = String::from_utf8_lossy(name);
    let Some(page) = page(&name, b"application/xml", body) else { return };
    let Some(parser) = parser(&[]) else { panic!("the rules are good") };
    let parsed = parser.parse(&page);
    check(&parsed);
    assert_eq!(parser.parse(&page), parsed, "the same file, the same links");
}
