//! The floor: what a crawler's parts cost without a crawler. One process fetches
//! every URL of a list, and does with each page what a worker must do, by the
//! same libraries: undo its content coding, make text of it, find its links,
//! join them, drop repeated ones, digest it, compress it. Then it throws all of
//! that away. No robots, limits, charsets, records, retries, frontier, disk.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    fs,
    hint::black_box,
    io::Read,
    path::Path,
    rc::Rc,
};

use flate2::{Compress, Compression, FlushCompress, Status, read::GzDecoder};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use lol_html::{ElementContentHandlers, HtmlRewriter, Selector, Settings, html_content::Element};
use reqwest::{Client, redirect::Policy};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use tokio::{runtime, task::LocalSet};
use url::Url;

use crate::Failure;

/// What was done, so that nobody can think it was left out.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Done {
    /// Answers of status 200.
    pub(crate) pages: u64,
    /// All answers.
    pub(crate) answers: u64,
    /// Bytes of bodies, as text.
    pub(crate) bytes: u64,
    /// Different links, page by page.
    pub(crate) links: u64,
    /// Bytes that the pages were compressed to.
    pub(crate) compressed: u64,
}

/// URLs of one host that are taken by one lane at a time.
const BATCH: usize = 64;

/// Fetches the URLs of a file, one a line, in so many lanes.
pub(crate) fn run(urls: &Path, lanes: usize) -> Result<Done, Failure> {
    let mut hosts: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for url in fs::read_to_string(urls)?.lines() {
        let url: Url = url.parse()?;
        hosts.entry(url.authority().to_owned()).or_default().push(url);
    }
    let batches = hosts.values().flat_map(|urls| urls.chunks(BATCH)).map(<[Url]>::to_vec);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, fetch_all(batches.collect(), lanes))
}

async fn fetch_all(batches: Vec<Vec<Url>>, lanes: usize) -> Result<Done, Failure> {
    let client =
        Client::builder().no_proxy().redirect(Policy::none()).tls_certs_only([]).build()?;
    let batches = Rc::new(RefCell::new(batches.into_iter()));
    let work = Rc::new(RefCell::new(Work::new()?));
    let lanes: Vec<_> = (0..lanes)
        .map(|_| {
            tokio::task::spawn_local(lane(client.clone(), Rc::clone(&batches), Rc::clone(&work)))
        })
        .collect();
    for lane in lanes {
        lane.await??;
    }
    Ok(std::mem::take(&mut work.borrow_mut().done))
}

async fn lane(
    client: Client,
    batches: Rc<RefCell<impl Iterator<Item = Vec<Url>>>>,
    work: Rc<RefCell<Work>>,
) -> Result<(), Failure> {
    loop {
        let Some(batch) = batches.borrow_mut().next() else { return Ok(()) };
        for url in batch {
            fetch(&client, url, &work).await?;
        }
    }
}

async fn fetch(client: &Client, url: Url, work: &RefCell<Work>) -> Result<(), Failure> {
    let response = client.get(url.clone()).header(ACCEPT_ENCODING, "gzip").send().await?;
    let header = |name| {
        let value = response.headers().get(name);
        value.map_or("", |value| value.to_str().unwrap_or_default()).to_owned()
    };
    let is_coded = header(CONTENT_ENCODING) == "gzip";
    let content_type = header(CONTENT_TYPE);
    let is_html = content_type.starts_with("text/html") || content_type.contains("xhtml");
    let is_page = response.status() == 200;
    let wire = response.bytes().await?;
    let mut work = work.borrow_mut();
    work.page(&url, &wire, is_coded, is_html && is_page)?;
    work.done.pages += u64::from(is_page);
    Ok(())
}

/// What is made once and used for every page.
struct Work {
    selectors: [Selector; 2],
    gzip: Compress,
    compressed: Vec<u8>,
    decoded: Vec<u8>,
    done: Done,
}

impl Work {
    fn new() -> Result<Self, Failure> {
        let selector = |text: &str| text.parse::<Selector>().map_err(|error| error.to_string());
        Ok(Self {
            selectors: [selector("a[href]")?, selector("area[href]")?],
            gzip: Compress::new_gzip(Compression::new(1), 15),
            compressed: Vec::new(),
            decoded: Vec::new(),
            done: Done::default(),
        })
    }

    fn page(
        &mut self,
        url: &Url,
        wire: &[u8],
        is_coded: bool,
        is_html: bool,
    ) -> Result<(), Failure> {
        let body = if is_coded {
            self.decoded.clear();
            GzDecoder::new(wire).read_to_end(&mut self.decoded)?;
            &self.decoded
        } else {
            wire
        };
        if is_html {
            let text = String::from_utf8_lossy(body);
            self.done.links += links(&text, url, &self.selectors)?.len() as u64;
        }
        self.done.bytes += body.len() as u64;
        self.done.answers += 1;
        black_box(Sha1::digest(body));
        if is_coded {
            black_box(Sha1::digest(wire));
        }
        self.compressed.clear();
        self.gzip.reset();
        self.compressed.reserve(wire.len() + 1_024);
        let end = self.gzip.compress_vec(wire, &mut self.compressed, FlushCompress::Finish)?;
        if end != Status::StreamEnd {
            return Err("a page has not been compressed to its end".into());
        }
        self.done.compressed += self.compressed.len() as u64;
        Ok(())
    }
}

/// The different URLs that a page links to.
fn links(text: &str, page: &Url, selectors: &[Selector; 2]) -> Result<HashSet<Url>, Failure> {
    let mut hrefs: HashSet<Cow<'_, str>> = HashSet::new();
    {
        let hrefs = RefCell::new(&mut hrefs);
        let mut settings = Settings::new();
        for selector in selectors {
            let handler = |element: &mut Element<'_, '_>| {
                for attribute in element.attributes() {
                    let place = attribute.value_source_location();
                    let value = place.and_then(|place| text.get(place.bytes()));
                    if let Some(value) = value.filter(|_| attribute.name() == "href") {
                        let value = value.split('#').next().unwrap_or_default();
                        let value = match value.contains('&') {
                            true => Cow::Owned(value.replace("&amp;", "&")),
                            false => Cow::Borrowed(value),
                        };
                        hrefs.borrow_mut().insert(value);
                    }
                }
                Ok(())
            };
            let handlers = ElementContentHandlers::default().element(handler);
            settings = settings.append_element_content_handler((Cow::Borrowed(selector), handlers));
        }
        let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
        rewriter.write(text.as_bytes())?;
        rewriter.end()?;
    }
    Ok(hrefs.iter().filter_map(|href| page.join(href).ok()).collect())
}
