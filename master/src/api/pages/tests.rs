//! Tests of the streams as those who ask for them see them.

use std::fs;

use tempfile::TempDir;
use tonic::Code;
use trawl_shared::units::Size;

use super::*;
use crate::{
    export::export_file,
    pages::{
        PageStore, StoredPage,
        tests::{Sample, samples, stored},
    },
    store::rows::{EndedRow, FetchedRow},
};

/// A crawl's pages, and those who ask for them.
struct Crawl {
    dir: TempDir,
    store: PageStore,
    places: Vec<Place>,
    exports: Exports,
    stop: CancellationToken,
}

impl Crawl {
    fn of(samples: &[Sample]) -> Self {
        let dir = TempDir::new().unwrap();
        let (store, places) = stored(&dir.path().join("test"), samples, Size::mib(2));
        let stop = CancellationToken::new();
        let exports = Exports::new(dir.path().join("tmp"), stop.clone());
        Self { dir, store, places, exports, stop }
    }

    /// With more pages than the queues between an export and its client hold.
    fn large() -> Self {
        let mut rng = fastrand::Rng::with_seed(4);
        let noise = |n| {
            let body: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(300_000).collect();
            Sample::new(&format!("http://example.org/{n}"), 200, &body)
        };
        Self::of(&(0..30).map(noise).collect::<Vec<_>>())
    }

    fn pages(&self) -> CrawlPages {
        CrawlPages {
            crawl: 1,
            name: "test".into(),
            directory: self.dir.path().join("test"),
            committed: self.store.committed(),
        }
    }

    fn export(&self, format: Format) -> Result<ExportStream, Status> {
        self.exports.start(self.pages(), format.as_str())
    }

    /// What an export to a file says and writes.
    fn offline(&self, format: Format) -> (Summary, Vec<u8>) {
        let out = self.dir.path().join("out");
        let summary = export_file(&self.pages(), format, &out).unwrap();
        (summary, fs::read(out).unwrap())
    }

    fn running(&self) -> usize {
        EXPORTS_MAX - self.exports.permits.available_permits()
    }

    /// Waits until no export runs.
    async fn rest(&self) {
        let ended = async {
            while self.running() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), ended).await.expect("the exports end");
    }
}

/// The bytes of all chunks, and what the end said.
async fn received(mut parts: ExportStream) -> (Vec<u8>, Result<ExportDone, Status>) {
    let mut bytes = Vec::new();
    while let Some(part) = parts.next().await {
        match part.map(|part| part.part.unwrap()) {
            Ok(export_part::Part::Chunk(chunk)) => {
                assert!((1..=CHUNK_BYTES).contains(&chunk.len()));
                bytes.extend_from_slice(&chunk);
            }
            Ok(export_part::Part::Done(done)) => {
                assert!(parts.next().await.is_none(), "nothing comes after the end");
                return (bytes, Ok(done));
            }
            Err(status) => return (bytes, Err(status)),
        }
    }
    panic!("it ended without saying how");
}

#[tokio::test]
async fn an_export_brings_what_the_file_would_hold() {
    for crawl in [Crawl::large(), Crawl::of(&samples(40)), Crawl::of(&[])] {
        for format in Format::ALL {
            let (bytes, done) = received(crawl.export(format).unwrap()).await;
            let (summary, file) = crawl.offline(format);
            assert!(bytes == file, "{format}");
            assert_eq!(done.unwrap(), super::done(summary));
        }
    }
}

#[tokio::test]
async fn pages_that_come_later_are_not_in_it() {
    let mut crawl = Crawl::large();
    let (_, file) = crawl.offline(Format::Warc);
    let mut parts = crawl.export(Format::Warc).unwrap();
    let first = parts.next().await.unwrap().unwrap();
    let Some(export_part::Part::Chunk(first)) = first.part else { panic!("{first:?}") };

    for sample in samples(5) {
        let (records, lengths) = sample.records();
        crawl.store.append(&[records], lengths).unwrap();
        crawl.store.sync().unwrap();
    }

    let (rest, done) = received(parts).await;
    assert!([&first[..], &rest].concat() == file);
    assert_eq!(done.unwrap().pages, 30);
}

#[tokio::test]
async fn only_so_many_run_at_the_same_time() {
    let crawl = Crawl::large();
    let running: Vec<_> = (0..EXPORTS_MAX).map(|_| crawl.export(Format::Warc).unwrap()).collect();

    let refused = crawl.export(Format::Warc).err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("4 exports are running"), "{refused}");

    // Those that run are none the worse for it.
    for parts in running {
        assert_eq!(received(parts).await.1.unwrap().pages, 30);
    }
    crawl.rest().await;
    assert!(crawl.export(Format::Warc).is_ok());
}

#[tokio::test]
async fn an_export_ends_when_its_client_goes() {
    let crawl = Crawl::large();
    for format in Format::ALL {
        let mut parts = crawl.export(format).unwrap();
        if format == Format::Warc {
            parts.next().await.unwrap().unwrap();
            assert_eq!(crawl.running(), 1, "it waits for its client");
        }
        drop(parts);
        crawl.rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_export_ends_when_its_client_takes_nothing() {
    let crawl = Crawl::large();
    let parts = crawl.export(Format::Warc).unwrap();
    for _ in 0..10_000 {
        if crawl.running() == 0 {
            break;
        }
        // The export's thread is not of the clock that stands still here.
        std::thread::sleep(Duration::from_millis(1));
        tokio::time::advance(STALL_MAX / 100).await;
    }

    let (bytes, end) = received(parts).await;
    assert_eq!(bytes.len(), CHUNKS_MAX * CHUNK_BYTES);
    let status = end.unwrap_err();
    assert!(status.message().ends_with("the client took nothing for 600 s"), "{status}");
}

#[tokio::test]
async fn an_export_ends_when_the_master_stops() {
    let crawl = Crawl::large();
    let parts = crawl.export(Format::Warc).unwrap();
    crawl.stop.cancel();
    let (_, end) = received(parts).await;
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    crawl.rest().await;
}

#[tokio::test]
async fn a_damaged_page_ends_an_export_without_its_end() {
    let crawl = Crawl::large();
    let path = crawl.store.segments().path(2);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 6;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    for format in Format::ALL {
        let (_, end) = received(crawl.export(format).unwrap()).await;
        let status = end.unwrap_err();
        assert_eq!(status.code(), Code::DataLoss);
        assert!(status.message().contains("test-00000002.warc.gz: "), "{status}");
    }
}

#[tokio::test]
async fn a_format_that_is_none_is_refused() {
    let refused = Crawl::of(&[]).exports.start(Crawl::of(&[]).pages(), "csv").err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("jsonl"), "{refused}");
}

/// The lengths, and the bytes of all chunks.
async fn received_page(mut parts: PageStream) -> Result<StoredPage, Status> {
    let Some(page_part::Part::Lengths(lengths)) = parts.next().await.unwrap()?.part else {
        panic!("lengths come first");
    };
    let mut bytes = Vec::new();
    while let Some(part) = parts.next().await {
        let Some(page_part::Part::Chunk(chunk)) = part?.part else { panic!("then chunks") };
        assert!((1..=CHUNK_BYTES).contains(&chunk.len()));
        bytes.extend_from_slice(&chunk);
    }
    let RecordLengths { response, request, metadata } = lengths;
    let lengths = trawl_shared::warc::Lengths { response, request, metadata };
    assert_eq!(lengths.total(), bytes.len() as u64);
    Ok(StoredPage::received(bytes, lengths, "the answer"))
}

#[tokio::test]
async fn a_page_comes_as_it_was_put_away() {
    for crawl in [Crawl::large(), Crawl::of(&samples(5))] {
        for place in &crawl.places {
            let page = received_page(page(&crawl.pages(), *place).unwrap()).await.unwrap();
            let stored = crawl.store.segments().page(*place).unwrap();
            assert_eq!(page.meta().unwrap(), stored.meta().unwrap());
            assert_eq!(page.response().unwrap(), stored.response().unwrap());
            assert_eq!(page.request().unwrap(), stored.request().unwrap());
        }
    }
}

#[tokio::test]
async fn a_page_that_is_gone_is_told_of() {
    let crawl = Crawl::of(&samples(5));
    fs::remove_file(crawl.store.segments().path(1)).unwrap();
    let error = received_page(page(&crawl.pages(), crawl.places[0]).unwrap()).await.unwrap_err();
    assert_eq!(error.code(), Code::DataLoss);
    assert!(error.message().contains("test-00000001.warc.gz: "), "{error}");
}

#[test]
fn a_url_without_a_page_has_a_reason() {
    let url = CrawlUrl::parse("http://example.org/").unwrap();
    let place =
        Place::new(1, 2, trawl_shared::warc::Lengths { response: 3, request: 4, metadata: 5 });
    let fetched = |place| UrlState::Fetched(FetchedRow { place, ..FetchedRow::default() });
    assert_eq!(super::place(&url, Some(fetched(place.encode().into()))).unwrap(), place);
    let ended = EndedRow { detail: "no such host".into(), ..EndedRow::default() };
    for (known, code, text) in [
        (None, Code::FailedPrecondition, "the crawl never heard of it"),
        (
            Some(UrlState::Pending(Vec::new())),
            Code::FailedPrecondition,
            "it is still waiting to be fetched",
        ),
        (Some(UrlState::Ended(ended)), Code::FailedPrecondition, "no such host"),
        (Some(fetched(Vec::new())), Code::DataLoss, "the page's place cannot be read"),
    ] {
        let status = super::place(&url, known).unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().ends_with(text), "{status}");
    }
}
