//! Tests of the page store as a whole, and the pages that they and the tests of
//! the exports are made of.

use std::{fs, os::unix::fs::FileExt};

use sha1::{Digest, Sha1};
use tempfile::TempDir;
use trawl_shared::{
    page::PageMeta,
    url::UrlId,
    warc::{sha1_base32, sha1_hex},
};

use super::*;

/// A page as a worker would send it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) meta: PageMeta,
    pub(crate) head: String,
    pub(crate) payload: Vec<u8>,
}

impl Sample {
    /// A page without content coding.
    pub(crate) fn new(url: &str, status: u16, body: &[u8]) -> Self {
        let meta = PageMeta {
            url: url.into(),
            id: UrlId::of(url).to_string(),
            status,
            sha1: sha1_hex(&Sha1::digest(body).into()),
            bytes: body.len() as u64,
            wire_bytes: body.len() as u64,
            fetched_at: "2026-11-23T12:34:56.789Z".into(),
            attempt: 1,
            ..PageMeta::default()
        };
        let head = format!("HTTP/1.1 {status} Some\r\ncontent-type: text/html; charset=utf-8\r\n");
        Self { meta, head, payload: body.into() }
    }

    /// With another head; each line with its end.
    pub(crate) fn head(self, head: &str) -> Self {
        Self { head: head.into(), ..self }
    }

    /// With another payload than the body.
    pub(crate) fn payload(self, payload: Vec<u8>) -> Self {
        Self { payload, ..self }
    }

    /// Its records, compressed.
    pub(crate) fn records(&self) -> (Bytes, Lengths) {
        let mut gzip = MemberWriter::gzip(1);
        let mut rng = fastrand::Rng::with_seed(self.payload.len() as u64);
        let mut members = Vec::new();
        let digest = sha1_base32(&Sha1::digest(&self.payload).into());
        let answer = [self.head.as_bytes(), b"\r\n", &self.payload].concat();
        let request = b"GET / HTTP/1.1\r\nhost: example.org\r\n\r\n";
        let json = serde_json::to_vec(&self.meta).unwrap();
        let mut write = |kind, content_type: &str, block: &[u8]| {
            let head =
                Head::new(kind, RecordId::random(&mut rng), self.meta.fetched_at.parse().unwrap())
                    .field("WARC-Target-URI", &self.meta.url)
                    .field("WARC-Payload-Digest", format_args!("sha1:{digest}"))
                    .field("Content-Type", content_type)
                    .finish(block.len());
            let pieces = [head.as_bytes(), block, RECORD_END];
            u32::try_from(gzip.write(&pieces, &mut members).unwrap()).unwrap()
        };
        let lengths = Lengths {
            response: write(RecordType::Response, "application/http;msgtype=response", &answer),
            request: write(RecordType::Request, "application/http;msgtype=request", request),
            metadata: write(RecordType::Metadata, "application/json", &json),
        };
        (members.into(), lengths)
    }
}

/// A store with pages, synced.
pub(crate) fn stored(dir: &Path, samples: &[Sample], bytes_max: Size) -> (PageStore, Vec<Place>) {
    let mut store = PageStore::open(dir, "test", Committed::default(), bytes_max).unwrap();
    let places = samples.iter().map(|sample| append(&mut store, sample).unwrap()).collect();
    store.sync().unwrap();
    (store, places)
}

/// `count` pages with bodies of some length.
pub(crate) fn samples(count: usize) -> Vec<Sample> {
    (0..count)
        .map(|n| {
            let body = format!("<title>{n}</title>").repeat(n * 37 % 200 + 1);
            Sample::new(&format!("http://example.org/{n}"), 200, body.as_bytes())
        })
        .collect()
}

fn append(store: &mut PageStore, sample: &Sample) -> Result<Place, PageStoreError> {
    let (records, lengths) = sample.records();
    // As it comes over the wire: in chunks that know nothing of members.
    let chunks: Vec<Bytes> = records.chunks(100).map(Bytes::copy_from_slice).collect();
    store.append(&chunks, lengths)
}

fn open(dir: &TempDir, committed: Committed) -> Result<PageStore, PageStoreError> {
    PageStore::open(dir.path(), "test", committed, Size::mib(1))
}

fn scanned(store: &PageStore) -> Vec<(String, Place)> {
    let mut scan = Scan::new(store.segments().clone(), store.committed());
    let mut pages = Vec::new();
    while let Some(page) = scan.next_page().unwrap() {
        pages.push((page.meta().unwrap().url, page.place));
    }
    pages
}

/// The same, in passes of one page each.
fn scanned_piece_by_piece(store: &PageStore) -> Vec<(String, Place)> {
    let (mut pages, mut at) = (Vec::new(), (1, 0));
    loop {
        let mut scan = Scan::new(store.segments().clone(), store.committed());
        scan.go_to(at.0, at.1).unwrap();
        let Some(page) = scan.next_page().unwrap() else { return pages };
        pages.push((page.meta().unwrap().url, page.place));
        at = scan.at();
    }
}

fn urls_and_places(samples: &[Sample], places: &[Place]) -> Vec<(String, Place)> {
    samples.iter().map(|s| s.meta.url.clone()).zip(places.iter().copied()).collect()
}

fn files(dir: &TempDir) -> Vec<String> {
    let names = fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_page_is_read_where_it_was_put() {
    let dir = TempDir::new().unwrap();
    let samples = samples(20);
    let (store, places) = stored(dir.path(), &samples, Size::mib(1));
    for (sample, place) in samples.iter().zip(&places).rev() {
        let page = store.segments().page(*place).unwrap();
        let meta = page.meta().unwrap();
        assert_eq!(meta, sample.meta);
        let response = page.response().unwrap();
        assert_eq!(response.status_line, "HTTP/1.1 200 Some");
        assert_eq!(
            response.headers,
            [("content-type".to_owned(), b"text/html; charset=utf-8".to_vec())]
        );
        assert_eq!(response.payload, sample.payload);
        assert_eq!(page.body(&meta).unwrap(), sample.payload);
        assert!(page.request().unwrap().starts_with(b"GET / HTTP/1.1\r\n"));
    }
}

#[test]
fn a_page_is_read_where_it_was_sent_to() {
    let sample = &samples(3)[2];
    let (records, lengths) = sample.records();
    let page = StoredPage::received(records.to_vec(), lengths, "the answer");
    let meta = page.meta().unwrap();
    assert_eq!(meta, sample.meta);
    assert_eq!(page.response().unwrap().payload, sample.payload);
    assert!(page.request().unwrap().starts_with(b"GET / HTTP/1.1\r\n"));

    let short = StoredPage::received(records[..records.len() - 1].to_vec(), lengths, "the answer");
    let error = short.meta().unwrap_err().to_string();
    assert!(error.starts_with("could not read the record at byte "), "{error}");
    assert!(error.ends_with(" of the answer"), "{error}");
}

#[test]
fn a_scan_sees_every_page_in_order_across_segments() {
    let dir = TempDir::new().unwrap();
    let samples = samples(30);
    let (store, places) = stored(dir.path(), &samples, Size::bytes(4_000));
    assert!(store.committed().segment > 3, "{:?}", store.committed());
    assert_eq!(scanned(&store), urls_and_places(&samples, &places));
    assert_eq!(scanned_piece_by_piece(&store), urls_and_places(&samples, &places));
    for (number, bytes) in store.segments().list().unwrap() {
        assert!(bytes <= 4_000, "segment {number} has {bytes} bytes");
    }
}

#[test]
fn a_page_larger_than_a_segment_gets_one_of_its_own() {
    let dir = TempDir::new().unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(9_000).collect();
    let large = Sample::new("http://example.org/large", 200, &noise);
    let samples = [samples(1), vec![large.clone(), large], self::samples(1)].concat();
    let (store, places) = stored(dir.path(), &samples, Size::bytes(4_000));
    assert_eq!(places.iter().map(|place| place.segment).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(scanned(&store), urls_and_places(&samples, &places));
}

#[test]
fn what_was_not_committed_is_cut_off() {
    let dir = TempDir::new().unwrap();
    let samples = samples(30);
    let (mut store, places) = stored(dir.path(), &samples[..3], Size::bytes(4_000));
    let committed = store.committed();
    for sample in &samples[3..] {
        append(&mut store, sample).unwrap();
    }
    store.sync().unwrap();
    assert!(store.committed().segment > 2);
    drop(store);
    fs::write(dir.path().join("test-notes.txt"), "not ours").unwrap();

    // The same twice: the first opening may have been cut short, too.
    for _ in 0..2 {
        let store = open(&dir, committed).unwrap();
        assert_eq!(store.committed(), committed);
        assert_eq!(files(&dir), ["test-00000001.warc.gz", "test-notes.txt"]);
        assert_eq!(fs::metadata(store.segments().path(1)).unwrap().len(), committed.bytes);
        assert_eq!(scanned(&store), urls_and_places(&samples[..3], &places));
    }

    let mut store = open(&dir, committed).unwrap();
    let place = append(&mut store, &samples[9]).unwrap();
    assert_eq!((place.segment, place.offset), (1, committed.bytes));
    assert_eq!(store.committed(), committed, "not before it is synced");
    assert_eq!(store.sync().unwrap().bytes, committed.bytes + place.lengths().total());
}

#[test]
fn a_commit_that_was_refused_can_be_undone() {
    let dir = TempDir::new().unwrap();
    let samples = samples(30);
    let (mut store, places) = stored(dir.path(), &samples[..3], Size::bytes(4_000));
    let committed = store.committed();
    for sample in &samples[3..] {
        append(&mut store, sample).unwrap();
    }
    store.sync().unwrap();

    store.rewind(committed).unwrap();

    assert_eq!(scanned(&store), urls_and_places(&samples[..3], &places));
    let again = append(&mut store, &samples[3]).unwrap();
    store.sync().unwrap();
    assert_eq!(scanned(&store), urls_and_places(&samples[..4], &[places, vec![again]].concat()));
}

#[test]
fn nothing_committed_is_an_empty_store() {
    let dir = TempDir::new().unwrap();
    let (store, _) = stored(dir.path(), &samples(1), Size::mib(1));
    drop(store);
    let mut store = open(&dir, Committed::default()).unwrap();
    assert!(files(&dir).is_empty());
    assert_eq!(store.sync().unwrap(), Committed::default());
    assert!(scanned(&store).is_empty());
    assert!(scanned_piece_by_piece(&store).is_empty());
}

#[test]
fn lost_pages_are_an_error_that_says_where() {
    let dir = TempDir::new().unwrap();
    let (store, places) = stored(dir.path(), &samples(2), Size::mib(1));
    let committed = store.committed();
    let path = store.segments().path(1);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(committed.bytes - 1).unwrap();
    assert_eq!(
        open(&dir, committed).unwrap_err().to_string(),
        format!(
            "{} has {} bytes, but {} were committed: the disk has lost pages; restore them, or let \
             `trawl repair` have them fetched again",
            path.display(),
            committed.bytes - 1,
            committed.bytes
        )
    );
    let mut scan = Scan::new(store.segments().clone(), committed);
    assert!(scan.next_page().unwrap().is_some());
    let error = scan.next_page().unwrap_err();
    assert_eq!(error.offset, committed.bytes - u64::from(places[1].metadata_len));

    let later = Committed { segment: 2, bytes: 1 };
    assert!(matches!(
        open(&dir, later),
        Err(PageStoreError::Short { found: 0, .. } | PageStoreError::Missing(_))
    ));
    fs::remove_file(&path).unwrap();
    let error = open(&dir, committed).unwrap_err();
    assert!(error.to_string().contains("test-00000001.warc.gz is missing"), "{error}");
}

#[test]
fn segments_of_another_store_are_not_deleted() {
    let dir = TempDir::new().unwrap();
    let (store, _) = stored(dir.path(), &samples(1), Size::mib(1));
    let path = store.segments().path(2);
    fs::File::create(&path).unwrap().set_len(TORN_BYTES_MAX + 1).unwrap();
    let error = open(&dir, store.committed()).unwrap_err();
    assert!(matches!(error, PageStoreError::Foreign { .. }), "{error}");
    assert_eq!(fs::metadata(path).unwrap().len(), TORN_BYTES_MAX + 1);
}

#[test]
fn a_failed_append_leaves_no_trace() {
    let dir = TempDir::new().unwrap();
    let samples = samples(3);
    let (mut store, places) = stored(dir.path(), &samples[..1], Size::mib(1));
    let committed = store.committed();

    let writable = replace_file(&mut store, |path| fs::File::open(path).unwrap());
    let error = append(&mut store, &samples[1]).unwrap_err();
    assert!(error.to_string().starts_with("could not write to "), "{error}");
    assert!(!error.is_disk_full());
    assert_eq!(store.sync().unwrap(), committed);

    replace_file(&mut store, |_| writable);
    let place = append(&mut store, &samples[2]).unwrap();
    assert_eq!(place.offset, committed.bytes);
    store.sync().unwrap();
    let kept = [samples[0].clone(), samples[2].clone()];
    assert_eq!(scanned(&store), urls_and_places(&kept, &[places[0], place]));
}

fn replace_file(store: &mut PageStore, open: impl FnOnce(&Path) -> fs::File) -> fs::File {
    let segment = store.current.as_mut().unwrap();
    std::mem::replace(&mut segment.file, open(&segment.path))
}

#[test]
fn after_a_failed_sync_nothing_is_written_until_the_store_is_rewound() {
    let dir = TempDir::new().unwrap();
    let samples = samples(2);
    let (mut store, _) = stored(dir.path(), &samples[..1], Size::mib(1));
    let committed = store.committed();
    append(&mut store, &samples[1]).unwrap();
    // A pipe can be written to, but not synced.
    let pipe = || fs::File::from(std::os::fd::OwnedFd::from(std::io::pipe().unwrap().1));
    replace_file(&mut store, |_| pipe());

    assert!(matches!(store.sync(), Err(PageStoreError::Io { action: "sync", .. })));
    assert!(matches!(store.sync(), Err(PageStoreError::Failed)));
    assert!(matches!(append(&mut store, &samples[1]), Err(PageStoreError::Failed)));

    store.rewind(committed).unwrap();
    append(&mut store, &samples[1]).unwrap();
    store.sync().unwrap();
    assert_eq!(scanned(&store).len(), 2);
}

#[test]
fn a_full_disk_is_recognised() {
    let full = |kind| PageStoreError::io("write to", Path::new("x"), io::Error::from(kind));
    assert!(full(io::ErrorKind::StorageFull).is_disk_full());
    assert!(full(io::ErrorKind::QuotaExceeded).is_disk_full());
    assert!(!full(io::ErrorKind::PermissionDenied).is_disk_full());
    assert!(
        PageStoreError::io("a", Path::new("x"), io::Error::from_raw_os_error(libc::ENOSPC))
            .is_disk_full()
    );
}

#[test]
fn records_that_are_not_what_they_say_are_refused() {
    let dir = TempDir::new().unwrap();
    let (mut store, _) = stored(dir.path(), &samples(1), Size::mib(1));
    let before = store.committed();
    let (records, lengths) = samples(1)[0].records();
    for wrong in [
        Lengths { response: lengths.response + 1, ..lengths },
        Lengths { response: lengths.response + 1, request: lengths.request - 1, ..lengths },
        Lengths { metadata: 0, request: lengths.request + lengths.metadata, ..lengths },
        Lengths { response: u32::MAX, ..lengths },
        Lengths::default(),
    ] {
        let error = store.append(std::slice::from_ref(&records), wrong).unwrap_err();
        assert!(matches!(error, PageStoreError::Records), "{wrong:?}");
    }
    assert!(matches!(store.append(&[], Lengths::default()), Err(PageStoreError::Records)));
    assert_eq!(store.sync().unwrap(), before);
}

#[test]
fn no_name_leads_out_of_the_directory() {
    let dir = TempDir::new().unwrap();
    let long = "a".repeat(65);
    for name in ["", ".", "..", ".a", "a/b", "../a", "a\\b", "a b", "ä", "a\0", long.as_str()] {
        assert!(
            matches!(Segments::new(dir.path(), name), Err(PageStoreError::Name(_))),
            "{name:?}"
        );
    }
    for name in ["a", "A.b_c-9", "-", &long[1..]] {
        Segments::new(dir.path(), name).unwrap();
    }
}

#[test]
fn one_crawl_does_not_take_another_ones_segments() {
    let dir = TempDir::new().unwrap();
    let others =
        ["test-00000001-00000001", "test2-00000001", "test-1", "test-000000001", "est-00000001"];
    for name in others {
        fs::write(dir.path().join(format!("{name}.warc.gz")), "x").unwrap();
    }
    open(&dir, Committed::default()).unwrap();
    assert_eq!(files(&dir).len(), others.len());
}

#[test]
fn a_damaged_page_is_an_error_and_never_a_panic() {
    let dir = TempDir::new().unwrap();
    let samples = samples(3);
    let (store, places) = stored(dir.path(), &samples, Size::mib(1));
    let path = store.segments().path(1);
    let good = fs::read(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut rng = fastrand::Rng::with_seed(11);
    for _ in 0..300 {
        let at = rng.usize(..good.len());
        file.write_all_at(&[good[at] ^ (1 << rng.u8(..8))], at as u64).unwrap();
        let mut scan = Scan::new(store.segments().clone(), store.committed());
        while let Ok(Some(page)) = scan.next_page() {
            let _ = page.meta().and_then(|meta| page.body(&meta));
        }
        for place in &places {
            let page = store.segments().page(*place).unwrap();
            let _ = (page.meta(), page.response(), page.request());
        }
        file.write_all_at(&good[at..=at], at as u64).unwrap();
    }
    assert_eq!(scanned(&store), urls_and_places(&samples, &places));
}

#[test]
fn a_wrong_place_is_an_error() {
    let dir = TempDir::new().unwrap();
    let (store, places) = stored(dir.path(), &samples(2), Size::mib(1));
    let place = places[0];
    for wrong in [
        Place { offset: place.offset + 1, ..place },
        Place { offset: u64::MAX, ..place },
        Place { offset: 0, ..place },
        Place { response_len: place.response_len - 1, ..place },
        Place { response_len: place.response_len + 1, ..place },
    ] {
        let page = store.segments().page(wrong).unwrap();
        assert!(page.response().is_err(), "{wrong:?}");
        assert!(page.meta().is_err(), "{wrong:?}");
    }
    assert!(store.segments().page(Place { segment: 2, ..place }).is_err());
}

#[test]
fn each_segment_starts_by_saying_who_wrote_it() {
    let dir = TempDir::new().unwrap();
    let (store, _) = stored(dir.path(), &samples(1), Size::mib(1));
    let file = fs::read(store.segments().path(1)).unwrap();
    let mut bytes = Vec::new();
    trawl_shared::warc::read_member(&mut &file[..], 10_000, &mut bytes).unwrap();
    let record = trawl_shared::warc::Record::parse(&bytes).unwrap();
    assert_eq!(record.kind, RecordType::Warcinfo);
    assert_eq!(record.field("WARC-Filename"), Some("test-00000001.warc.gz"));
    let block = str::from_utf8(record.block).unwrap();
    assert!(block.starts_with("software: trawl/"), "{block}");
    assert!(block.ends_with("isPartOf: test\r\n"), "{block}");
}
