//! JSON lines: one page's metadata a line, as it was stored. Characters that a terminal would act
//! on, or that turn text around, are spelled out by JSON's escapes: the values are the same.
//!
//! Every answer is a page here: a redirect is an object of its own, with its
//! `location`.

use trawl_shared::untrusted::printable_json;

use super::{Counted, ExportError, Sink};
use crate::pages::ScannedPage;

/// Writes JSON lines.
pub(super) struct Jsonl;

impl Sink for Jsonl {
    fn page(&mut self, page: &ScannedPage<'_>, out: &mut Counted<'_>) -> Result<bool, ExportError> {
        // Read only to know that it is one JSON object.
        page.meta()?;
        let mut separator = &b""[..];
        // JSON has line ends between tokens only, and ours has none at all.
        for line in page.metadata.block.split(|byte| matches!(byte, b'\n' | b'\r')) {
            // Most titles have none of them, and what is ASCII was written by JSON.
            match str::from_utf8(line) {
                Ok(text) if line.iter().any(|byte| *byte >= 0x7f) => {
                    out.write(&[separator, printable_json(text).as_bytes()])?;
                }
                _ => out.write(&[separator, line])?,
            }
            separator = b" ";
        }
        out.write(&[b"\n"])?;
        Ok(true)
    }
}
