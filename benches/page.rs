//! What a worker does with one page of 30 KB and 70 links, beside fetching it: find
//! its links, digest it, and write its records.

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Version};
use trawl_shared::{clock::wall_now, page::PageMeta, spec::CrawlSpec, warc::seeded_rng};
use trawl_worker::{
    fetch::Page,
    parse::Parser,
    record::{Recorder, digest_page},
};

fn page() -> Page {
    let body = Bytes::from(workload::page());
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/html; charset=utf-8"));
    Page {
        url: workload::url(1),
        status: 200,
        version: Version::HTTP_11,
        headers,
        request_head: b"GET / HTTP/1.1\r\nhost: host0.example\r\n\r\n".to_vec(),
        wire: body.clone(),
        body,
        truncated: None,
        address: None,
        fetched_at: wall_now(),
        elapsed: Duration::ZERO,
    }
}

fn one_page(criterion: &mut Criterion) {
    let page = page();
    let parser = Parser::new(&CrawlSpec::default()).unwrap_or_else(|error| panic!("{error}"));
    let mut recorder = Recorder::new(1, seeded_rng());
    let digests = digest_page(&page);
    let meta = PageMeta { url: page.url.as_str().to_owned(), ..PageMeta::default() };
    let mut group = criterion.benchmark_group("page");
    group.throughput(Throughput::Bytes(page.body.len() as u64));
    group.bench_function("links", |bench| bench.iter(|| black_box(parser.parse(&page))));
    group.bench_function("digest", |bench| bench.iter(|| black_box(digest_page(&page))));
    group.bench_function("records", |bench| {
        bench.iter(|| black_box(recorder.records(&page, &digests, &meta)));
    });
    group.finish();
}

criterion_group!(benches, one_page);
criterion_main!(benches);
