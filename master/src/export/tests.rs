//! Tests of the exports as files.

use std::{cell::Cell, fs};

use sha1::{Digest, Sha1};
use tempfile::TempDir;
use trawl_shared::{page::PageMeta, units::Size, warc::sha1_hex};

use super::*;
use crate::pages::{
    PageStore,
    tests::{Sample, samples, stored},
};

/// A crawl's pages in one directory, and another for what is made of them.
struct Crawl {
    pages: TempDir,
    out: TempDir,
    store: PageStore,
}

impl Crawl {
    fn of(samples: &[Sample]) -> Self {
        let pages = TempDir::new().unwrap();
        let (store, _) = stored(pages.path(), samples, Size::bytes(3_000));
        Self { pages, out: TempDir::new().unwrap(), store }
    }

    fn committed(&self) -> CrawlPages {
        CrawlPages {
            crawl: 1,
            name: "test".into(),
            directory: self.pages.path().into(),
            committed: self.store.committed(),
        }
    }

    fn export(&self, format: Format, name: &str) -> Result<Summary, ExportError> {
        export_file(&self.committed(), format, &self.path(name))
    }

    /// The summary, and what was written.
    fn exported(&self, format: Format) -> (Summary, Vec<u8>) {
        let summary = self.export(format, "out").unwrap();
        let bytes = fs::read(self.path("out")).unwrap();
        assert_eq!(summary.bytes, bytes.len() as u64);
        assert_eq!(self.files(), ["out"]);
        (summary, bytes)
    }

    fn path(&self, name: &str) -> PathBuf {
        // Keeps a slash at the end, which `join` does as well.
        self.out.path().join(name)
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.out.path()).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn redirect() -> Sample {
    let mut sample = Sample::new("http://example.org/old", 301, b"")
        .head("HTTP/1.1 301 Moved Permanently\r\nlocation: /new\r\n");
    sample.meta.location = Some("http://example.org/new".into());
    sample
}

fn coded() -> Sample {
    Sample::new("https://www.example.org:8443/B?b=2&a=1", 200, b"coded body")
        .head("HTTP/1.1 200 OK\r\nContent-Type: Text/HTML\r\nContent-Encoding: gzip\r\n")
        .payload(CODED.to_vec())
}

/// `coded body`, by Python's `gzip.compress`.
const CODED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03K\xceOIMQH\xcaO\xa9\x04\x00\x95\xe2\xe7\x7f\n\x00\x00\x00";

#[test]
fn json_lines_are_the_metadata_as_stored() {
    let crawl = Crawl::of(&[samples(5), vec![redirect()]].concat());
    let (summary, bytes) = crawl.exported(Format::Jsonl);
    assert_eq!((summary.pages, summary.left_out), (6, 0));
    let lines: Vec<&str> = str::from_utf8(&bytes).unwrap().lines().collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(
        lines[5],
        r#"{"url":"http://example.org/old","id":"0cf7eb8610b6295fd4518402562cef2d1ac53535","status":301,"sha1":"da39a3ee5e6b4b0d3255bfef95601890afd80709","content_type":null,"bytes":0,"wire_bytes":0,"fetched_at":"2026-11-23T12:34:56.789Z","elapsed_ms":0,"depth":0,"attempt":1,"location":"http://example.org/new","title":null,"outlinks":[],"fields":{}}"#
    );
    for (line, sample) in lines.iter().zip(samples(5)) {
        assert_eq!(serde_json::from_str::<PageMeta>(line).unwrap(), sample.meta);
    }
}

#[test]
fn an_index_has_the_lines_of_cdxj_indexer() {
    let crawl = Crawl::of(&[coded(), redirect(), samples(1)[0].clone()]);
    let (summary, bytes) = crawl.exported(Format::Cdxj);
    assert_eq!(summary.pages, 3);
    // Lengths and offsets are the compressor's to change; they are read below.
    let lines: Vec<&str> = str::from_utf8(&bytes).unwrap().lines().collect();
    let strip = |line: &str| -> String {
        let mut fields: Vec<&str> = line.split(", ").collect();
        fields.retain(|field| !field.starts_with("\"length\"") && !field.starts_with("\"offset\""));
        fields.join(", ")
    };
    assert_eq!(
        lines.iter().map(|line| strip(line)).collect::<Vec<_>>(),
        [
            r#"org,example)/0 20261123123456 {"url": "http://example.org/0", "mime": "text/html", "status": "200", "digest": "sha1:GWPNG6YQ7PPFKMUYMHDW5VY27SU5S34G", "filename": "test-00000002.warc.gz"}"#,
            r#"org,example)/old 20261123123456 {"url": "http://example.org/old", "status": "301", "digest": "sha1:3I42H3S6NNFQ2MSVX7XZKYAYSCX5QBYJ", "filename": "test-00000001.warc.gz"}"#,
            r#"org,example:8443)/b?a=1&b=2 20261123123456 {"url": "https://www.example.org:8443/B?b=2&a=1", "mime": "Text/HTML", "status": "200", "digest": "sha1:IT3BYV4GOX4AMWNCKCCBDPE3GCRKHWBA", "filename": "test-00000001.warc.gz"}"#,
        ]
    );
    for line in lines {
        let json: serde_json::Value =
            serde_json::from_str(line.splitn(3, ' ').nth(2).unwrap()).unwrap();
        let number = |name: &str| json[name].as_str().unwrap().parse::<usize>().unwrap();
        let file = fs::read(crawl.pages.path().join(json["filename"].as_str().unwrap())).unwrap();
        let mut member = &file[number("offset")..][..number("length")];
        let mut bytes = Vec::new();
        trawl_shared::warc::read_member(&mut member, 10_000, &mut bytes).unwrap();
        assert!(member.is_empty());
        let record = trawl_shared::warc::Record::parse(&bytes).unwrap();
        assert_eq!(record.field("WARC-Target-URI"), json["url"].as_str());
    }
}

#[test]
fn documents_hold_the_decoded_bodies_of_good_pages() {
    let missing = Sample::new("http://example.org/404", 404, b"not here");
    let crawl = Crawl::of(&[coded(), redirect(), missing, samples(1)[0].clone()]);
    let (summary, bytes) = crawl.exported(Format::Bson);
    assert_eq!((summary.pages, summary.left_out), (2, 2));
    let mut rest = &bytes[..];
    for sample in [&coded(), &samples(1)[0]] {
        let document = ::bson::Document::from_reader(&mut rest).unwrap();
        assert_eq!(document.keys().collect::<Vec<_>>(), ["_id", "url", "page"]);
        assert_eq!(document.get_str("_id").unwrap(), sample.meta.id);
        assert_eq!(document.get_str("url").unwrap(), sample.meta.url);
        let mut body = Vec::new();
        let page = document.get_binary_generic("page").unwrap();
        io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(&page[..]), &mut body).unwrap();
        assert_eq!(sha1_hex(&Sha1::digest(&body).into()), sample.meta.sha1);
    }
    assert!(rest.is_empty());
}

#[test]
fn a_body_too_large_for_a_document_is_left_out() {
    let mut rng = fastrand::Rng::with_seed(3);
    let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(17 << 20).collect();
    let crawl = Crawl::of(&[Sample::new("http://example.org/large", 200, &noise)]);
    let summary = crawl.export(Format::Bson, "out").unwrap();
    assert_eq!(summary, Summary { pages: 0, bytes: 0, left_out: 1 });
}

#[test]
fn segments_are_copied_as_they_are_or_joined() {
    let mut crawl = Crawl::of(&samples(20));
    let committed = crawl.store.committed();
    let segments = crawl.store.segments().clone();
    let names: Vec<String> = (1..=committed.segment).map(|n| segments.file_name(n)).collect();
    assert!(names.len() > 2, "{names:?}");
    let files: Vec<Vec<u8>> =
        (1..=committed.segment).map(|n| fs::read(segments.path(n)).unwrap()).collect();
    // What is appended but not committed is not exported.
    let (records, lengths) = samples(1)[0].records();
    crawl.store.append(&[records], lengths).unwrap();

    let (summary, joined) = crawl.exported(Format::Warc);
    assert_eq!(summary.pages, 20);
    assert!(joined == files.concat());

    for name in ["dir/", "dir"] {
        let summary = crawl.export(Format::Warc, name).unwrap();
        assert_eq!((summary.pages, summary.bytes), (20, joined.len() as u64));
        for (name, file) in names.iter().zip(&files) {
            assert!(fs::read(crawl.path("dir").join(name)).unwrap() == *file);
        }
        assert_eq!(fs::read_dir(crawl.path("dir")).unwrap().count(), names.len());
    }
}

#[test]
fn what_was_there_is_replaced_but_a_directory_is_not() {
    let crawl = Crawl::of(&samples(3));
    for format in Format::ALL {
        fs::write(crawl.path("out"), "mine").unwrap();
        crawl.export(format, "out").unwrap();
        assert_ne!(fs::read(crawl.path("out")).unwrap(), b"mine");
        assert_eq!(crawl.files(), ["out"]);
    }
    fs::create_dir(crawl.path("dir")).unwrap();
    for format in [Format::Jsonl, Format::Cdxj, Format::Bson] {
        let error = crawl.export(format, "dir").unwrap_err();
        assert!(matches!(error, ExportError::Directory(_)), "{error}");
        let error = crawl.export(format, "none/out").unwrap_err();
        assert!(error.to_string().contains("none/out"), "{error}");
    }
}

#[test]
fn a_damaged_page_ends_the_export_and_leaves_no_output() {
    let crawl = Crawl::of(&samples(20));
    let path = crawl.store.segments().path(2);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 6;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    for format in Format::ALL {
        let error = crawl.export(format, "out").unwrap_err().to_string();
        assert!(error.contains("could not read the record at byte "), "{error}");
        assert!(error.ends_with("test-00000002.warc.gz"), "{error}");
        assert!(crawl.files().is_empty());
    }
}

#[test]
fn what_is_written_elsewhere_is_what_the_file_would_hold() {
    let crawl = Crawl::of(&[samples(20), vec![redirect(), coded()]].concat());
    for format in Format::ALL {
        let (summary, file) = crawl.exported(format);
        let mut bytes = Vec::new();
        let again = export(&crawl.committed(), format, &mut bytes, Path::new("/none")).unwrap();
        assert_eq!(again, summary);
        assert!(bytes == file, "{format}");
    }
}

/// Somebody who leaves.
struct Leaver {
    pages: Cell<u32>,
    taken: u64,
}

impl Output for Leaver {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.taken += bytes.len() as u64;
        Ok(())
    }

    fn is_wanted(&self) -> bool {
        self.pages.set(self.pages.get() + 1);
        self.pages.get() < 5
    }
}

#[test]
fn an_export_ends_when_nobody_wants_it_any_more() {
    let crawl = Crawl::of(&samples(20));
    for format in Format::ALL {
        let mut leaver = Leaver { pages: Cell::new(0), taken: 0 };
        let error = export(&crawl.committed(), format, &mut leaver, Path::new("/none"));
        assert!(matches!(error, Err(ExportError::Unwanted)), "{error:?}");
        assert_eq!(leaver.pages.get(), 5);
        // An index is written when all is read.
        assert_eq!(leaver.taken == 0, format == Format::Cdxj);
    }
}

#[test]
fn a_crawl_without_pages_is_an_empty_file() {
    let crawl = Crawl::of(&[]);
    for format in Format::ALL {
        let summary = crawl.export(format, "out").unwrap();
        assert_eq!(summary, Summary::default());
        assert_eq!(fs::read(crawl.path("out")).unwrap(), b"");
    }
}

#[test]
fn a_format_is_known_by_its_name() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    assert!("csv".parse::<Format>().unwrap_err().contains("jsonl"));
}
