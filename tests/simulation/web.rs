//! A web in memory, made from a seed. It knows what every one of its pages must end as,
//! and writes down every visit.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use sha1::{Digest, Sha1};
use tokio::time::sleep;
use trawl_shared::{clock::wall_now, url::CrawlUrl};
use trawl_worker::fetch::{Fetch, FetchError, Page};

use crate::disk::now;

/// A fetch of a URL, from its begin to its end; the end of a fetch whose worker died is
/// when it died.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Visit {
    pub(crate) worker: String,
    pub(crate) host: String,
    pub(crate) url: String,
    pub(crate) begin: Duration,
    pub(crate) end: Option<Duration>,
}

/// What a URL answers, and must end as.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    pub(crate) location: Option<String>,
    /// How long it takes.
    takes: Duration,
    /// First visits to it that bring no answer.
    failures: u32,
    /// Those are told when to come again, instead of breaking off.
    is_polite: bool,
}

impl Answer {
    pub(crate) fn sha1(&self) -> Vec<u8> {
        Sha1::digest(&self.body).to_vec()
    }
}

/// The web. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Web(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    answers: BTreeMap<String, Answer>,
    seeds: Vec<String>,
    visits: Mutex<Vec<Visit>>,
}

impl Web {
    /// A web of so many hosts. Every page can be reached from the first page of its
    /// host, which is a seed.
    pub(crate) fn new(hosts: usize, chance: &mut fastrand::Rng, slowest: Duration) -> Self {
        let mut answers = BTreeMap::new();
        let sizes: Vec<usize> = (0..hosts).map(|_| chance.usize(4..16)).collect();
        let url = |host: usize, page: usize| format!("http://h{host}.example/{page}");
        for (host, pages) in sizes.iter().copied().enumerate() {
            for page in 0..pages {
                let mut links: Vec<String> = Vec::new();
                for child in [2 * page + 1, 2 * page + 2].into_iter().filter(|c| *c < pages) {
                    links.push(format!("<a href='/{child}'>{child}</a>"));
                }
                for _ in 0..chance.usize(0..3) {
                    let other = chance.usize(0..hosts);
                    let link = url(other, chance.usize(0..sizes[other]));
                    links.push(format!("<a href='{link}'>elsewhere</a>"));
                }
                let is_leaf = 2 * page + 1 >= pages && page > 0;
                // What leads nowhere may be anything; the others must lead on.
                let status = match chance.u8(0..10) {
                    0 if is_leaf => 404,
                    1 if is_leaf => 301,
                    _ => 200,
                };
                let mut takes = Duration::from_millis(chance.u64(20..800));
                if chance.u8(0..6) == 0 {
                    takes = slowest.mul_f64(0.5 + chance.f64() / 2.0);
                }
                let failures = if chance.u8(0..6) == 0 { chance.u32(1..3) } else { 0 };
                let is_polite = chance.bool();
                let location = (status == 301).then(|| url(host, 0));
                let body = Bytes::from(format!("<title>{host} {page}</title>{}", links.concat()));
                let answer = Answer { status, body, location, takes, failures, is_polite };
                answers.insert(url(host, page), answer);
            }
        }
        let seeds = (0..hosts).map(|host| url(host, 0)).collect();
        Self(Arc::new(Inner { answers, seeds, visits: Mutex::default() }))
    }

    pub(crate) fn seeds(&self) -> &[String] {
        &self.0.seeds
    }

    pub(crate) fn answers(&self) -> &BTreeMap<String, Answer> {
        &self.0.answers
    }

    pub(crate) fn visits(&self) -> Vec<Visit> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Visit>> {
        self.0.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The web, as one worker sees it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    web: Web,
    worker: Arc<str>,
}

impl View {
    pub(crate) fn of(web: &Web, worker: &str) -> Self {
        Self { web: web.clone(), worker: worker.into() }
    }

    fn arrive(&self, url: &CrawlUrl) -> Presence<'_> {
        let mut visits = self.web.lock();
        visits.push(Visit {
            worker: self.worker.to_string(),
            host: url.host_key_str().to_owned(),
            url: url.as_str().to_owned(),
            begin: now(),
            end: None,
        });
        Presence { web: &self.web, index: visits.len() - 1 }
    }
}

/// A visit that lasts until it is dropped, also by a crash.
struct Presence<'a> {
    web: &'a Web,
    index: usize,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        // Unknown where the simulation itself ends.
        if let Some(end) = turmoil::sim_elapsed() {
            self.web.lock()[self.index].end = Some(end);
        }
    }
}

impl Fetch for View {
    async fn get(&self, url: &CrawlUrl) -> Result<Page, FetchError> {
        let _presence = self.arrive(url);
        let (fetched_at, address) = (wall_now(), None);
        let no_file = Answer {
            status: 404,
            body: Bytes::new(),
            location: None,
            takes: Duration::from_millis(30),
            failures: 0,
            is_polite: false,
        };
        let answer = self.web.answers().get(url.as_str()).unwrap_or(&no_file);
        sleep(answer.takes).await;
        let mut headers = HeaderMap::new();
        let mut status = answer.status;
        let visits = self.web.lock().iter().filter(|visit| visit.url == url.as_str()).count();
        if visits <= answer.failures as usize {
            if !answer.is_polite {
                return Err(FetchError::Broken { cause: "as it was told to".into() });
            }
            // Hosts have clocks of their own, which nobody steps.
            let host_now = SystemTime::UNIX_EPOCH + now();
            let again = host_now + Duration::from_secs(2);
            headers.insert(header::DATE, header_of(&httpdate::fmt_http_date(host_now)));
            headers.insert(header::RETRY_AFTER, header_of(&httpdate::fmt_http_date(again)));
            status = 503;
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        if let Some(location) = &answer.location {
            headers.insert(header::LOCATION, header_of(location));
        }
        Ok(Page {
            url: url.clone(),
            status,
            version: http::Version::HTTP_11,
            headers,
            request_head: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            wire: answer.body.clone(),
            body: answer.body.clone(),
            truncated: None,
            address,
            fetched_at,
            elapsed: answer.takes,
        })
    }
}

fn header_of(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
