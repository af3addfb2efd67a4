//! What a crawl brought, as `trawl export --format jsonl` tells it.
//!
//! The keys are spelled out here and not taken from trawl's own types, because
//! they are what others build on.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value};

/// One line of the export.
#[derive(Clone, Debug, Deserialize)]
pub struct Page {
    /// The canonical URL.
    pub url: String,
    /// The SHA-1 of the URL, in hex.
    pub id: String,
    /// The HTTP status.
    pub status: u16,
    /// The SHA-1 of the body after content decoding, in hex.
    pub sha1: String,
    /// The Content-Type header.
    pub content_type: Option<String>,
    /// Bytes of the body after content decoding.
    pub bytes: u64,
    /// When it was fetched (RFC 3339).
    pub fetched_at: String,
    /// The document's title.
    pub title: Option<String>,
    /// The document's links, in order.
    pub outlinks: Vec<Outlink>,
    /// What the extraction rules found.
    pub fields: Map<String, Value>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// Redirects followed to come here.
    #[serde(default)]
    pub hops: u32,
    /// Links from a seed.
    pub depth: u32,
    /// Which try brought the answer.
    pub attempt: u32,
    /// The charset, and what decided on it.
    #[serde(default)]
    pub charset: Map<String, Value>,
    /// What it asks of the crawler.
    #[serde(default)]
    pub directives: Vec<String>,
    /// Why the body is not whole.
    pub truncated: Option<String>,
    /// Whether it was not read to its end.
    #[serde(default)]
    pub parse_cut: bool,
}

/// One link of a page.
#[derive(Clone, Debug, Deserialize)]
pub struct Outlink {
    /// Where it leads.
    pub url: String,
    /// Where it stood.
    pub kind: String,
    /// Its `rel` attribute.
    pub rel: Option<String>,
    /// Whether it is not followed, as the page or the link asks.
    #[serde(default)]
    pub nofollow: bool,
    /// When a sitemap or a feed says that it changed.
    pub lastmod: Option<String>,
}

/// All pages of a crawl, by URL.
#[derive(Clone, Debug)]
pub struct Pages(BTreeMap<String, Page>);

impl Pages {
    /// Reads an export.
    ///
    /// # Panics
    /// If a line is not a page, or a URL stands there twice.
    pub fn read(jsonl: &Path) -> Self {
        let text = fs::read_to_string(jsonl).unwrap();
        let mut pages = BTreeMap::new();
        for line in text.lines() {
            let page: Page = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("not a page: {error}: {line}"));
            let url = page.url.clone();
            assert!(pages.insert(url, page).is_none(), "exported twice: {line}");
        }
        Self(pages)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// All of them, in the order of their URLs.
    pub fn iter(&self) -> impl Iterator<Item = &Page> {
        self.0.values()
    }

    /// The page of a URL.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(&self, url: &str) -> &Page {
        self.0.get(url).unwrap_or_else(|| panic!("no page {url} among {:?}", self.urls()))
    }

    /// Whether there is a page of this URL.
    pub fn has(&self, url: &str) -> bool {
        self.0.contains_key(url)
    }

    /// Their URLs, in order.
    pub fn urls(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// That a crawl which was disturbed brought these pages too: each URL with the same status
    /// and the same body, and no other.
    ///
    /// # Panics
    /// If not, naming what differs.
    #[track_caller]
    pub fn are_those_of(&self, undisturbed: &Self) {
        let want = undisturbed.content();
        let have = self.content();
        let lost: Vec<_> = want.iter().filter(|page| !self.has(page.0)).collect();
        let odd: Vec<_> = have.iter().filter(|page| !want.contains(page)).collect();
        assert!(
            lost.is_empty() && odd.is_empty(),
            "of {} pages {} are lost: {lost:?}; and {} are others than in the undisturbed crawl: \
             {odd:?}",
            want.len(),
            lost.len(),
            odd.len(),
        );
    }

    /// Status and body digest of each: what must not depend on how a crawl went.
    pub fn content(&self) -> Vec<(&str, u16, &str)> {
        self.iter().map(|page| (&*page.url, page.status, &*page.sha1)).collect()
    }
}

impl Page {
    /// Where its links lead, in order.
    pub fn links(&self) -> Vec<&str> {
        self.outlinks.iter().map(|link| &*link.url).collect()
    }
}
