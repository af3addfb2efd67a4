//! JSON lines: one page's metadata a line, exactly as it was stored.
//!
//! Every answer is a page here: a redirect is an object of its own, with its
//! `location`.

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
            out.write(&[separator, line])?;
            separator = b" ";
        }
        out.write(&[b"\n"])?;
        Ok(true)
    }
}
