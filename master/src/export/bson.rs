//! BSON documents, one after the other, as `mongorestore` reads them:
//! `{_id: <SHA-1 of the URL, hex>, url, page: Binary(<zlib of the decoded body>)}`.
//!
//! Only 2xx answers have a document. A body that stays larger than MongoDB lets
//! a document be is left out and counted, because it would end the restore.

use bson::{Binary, RawDocumentBuf, raw::cstr, spec::BinarySubtype};
use trawl_shared::warc::MemberWriter;

use super::{Counted, ExportError, Sink};
use crate::pages::ScannedPage;

/// Bytes that MongoDB lets a document have.
const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Writes BSON documents.
pub(super) struct Bson {
    zlib: MemberWriter,
}

impl Bson {
    pub(super) fn new() -> Self {
        Self { zlib: MemberWriter::zlib(6) }
    }
}

impl Sink for Bson {
    fn page(&mut self, page: &ScannedPage<'_>, out: &mut Counted<'_>) -> Result<bool, ExportError> {
        let meta = page.meta()?;
        if !(200..300).contains(&meta.status) {
            return Ok(false);
        }
        let body = page.body(&meta)?;
        let mut bytes = Vec::new();
        self.zlib.write(&[&body], &mut bytes).map_err(ExportError::Output)?;

        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), meta.id);
        document.append(cstr!("url"), meta.url);
        document.append(cstr!("page"), Binary { subtype: BinarySubtype::Generic, bytes });
        if document.as_bytes().len() > DOCUMENT_BYTES_MAX {
            return Ok(false);
        }
        out.write(&[document.as_bytes()])?;
        Ok(true)
    }
}
