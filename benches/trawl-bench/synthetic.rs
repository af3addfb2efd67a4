//! A web of any number of hosts, made up as it is asked for, always the same.
//!
//! Host `h` is the address 127.16.0.0 plus `h`, so that nobody has to resolve a
//! name. Its pages are `/` and `/p/1.html` to `/p/N.html`; every page is found
//! from its host's first one, and every host from the first host: of the links
//! of page `p`, the first two lead to `2p+1` and `2p+2`, and the first page of
//! host `h` also to hosts `2h+1` and `2h+2`. The other links go anywhere, one of
//! five to another host. The server listens on the loopback interface alone.

use std::{
    convert::Infallible,
    fmt::{self, Display, Formatter, Write},
    net::Ipv4Addr,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime,
    sync::oneshot,
    time::sleep,
};

use crate::{Failure, table::Run};

const FIRST_HOST: u32 = u32::from_be_bytes([127, 16, 0, 0]);

/// Connections that may wait to be taken.
const BACKLOG: u32 = 4_096;

/// Different pieces of text that pages are made of.
const BLOCKS: u32 = 64;

/// Links that a page needs to lead to all that is below it.
const LINKS_MIN: u32 = 8;

/// What the web is like.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) hosts: u32,
    /// Pages of each host.
    pub(crate) pages: u32,
    /// Links of each page.
    pub(crate) links: u32,
    /// Bytes of each page, about.
    pub(crate) page_bytes: usize,
    /// Milliseconds before each answer.
    pub(crate) delay_ms: u64,
}

impl Display for Shape {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { hosts, pages, links, page_bytes, delay_ms } = self;
        write!(
            f,
            "{hosts} hosts of {pages} pages of {page_bytes} bytes and {links} links, each answered \
             after {delay_ms} ms"
        )
    }
}

/// The web, served while the value lives.
pub(crate) struct SyntheticWeb {
    shape: Shape,
    port: u16,
    /// Stops the server when dropped.
    _stop: oneshot::Sender<Infallible>,
}

impl SyntheticWeb {
    /// Serves it from a thread of this process.
    pub(crate) fn serve(shape: Shape) -> Result<Self, Failure> {
        if shape.links < LINKS_MIN {
            return Err(format!("links = {} is too few: {LINKS_MIN} at least", shape.links).into());
        }
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async { listen() })?;
        let port = listener.local_addr()?.port();
        let maker = Arc::new(Maker { shape: shape.clone(), port, blocks: blocks() });
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! { () = serve(listener, maker) => {}, _ = stopped => {} }
            });
        });
        Ok(Self { shape, port, _stop: stop })
    }

    /// Where a crawl of all of it starts.
    pub(crate) fn seed(&self) -> String {
        first_page(0, self.port)
    }

    /// The first page of each host.
    pub(crate) fn seeds(&self) -> Vec<String> {
        (0..self.shape.hosts).map(|host| first_page(host, self.port)).collect()
    }

    /// Fails if the run did not find every page: it could not be compared.
    pub(crate) fn all_of_it(&self, run: Run) -> Result<Run, Failure> {
        let all = f64::from(self.shape.hosts) * f64::from(self.shape.pages);
        if run.figure("pages") != Some(all) {
            return Err(format!("not all {all} pages were found: {run}").into());
        }
        Ok(run)
    }
}

fn first_page(host: u32, port: u16) -> String {
    format!("http://{}:{port}/", Ipv4Addr::from(FIRST_HOST + host))
}

/// A page's place on its host.
fn path(page: u32) -> String {
    if page == 0 { "/".to_owned() } else { format!("/p/{page}.html") }
}

/// Takes connections to every address of the loopback interface.
fn listen() -> Result<TcpListener, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.bind_device(Some(b"lo"))?;
    socket.bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
    Ok(socket.listen(BACKLOG)?)
}

async fn serve(listener: TcpListener, maker: Arc<Maker>) {
    loop {
        // A connection that was given up before it was taken is not missed.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let Ok(address) = stream.local_addr() else { continue };
        let std::net::IpAddr::V4(address) = address.ip() else { continue };
        let host = u32::from(address).wrapping_sub(FIRST_HOST);
        let maker = Arc::clone(&maker);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let maker = Arc::clone(&maker);
                async move {
                    sleep(Duration::from_millis(maker.shape.delay_ms)).await;
                    Ok::<_, Infallible>(maker.answer(host, request.uri().path()))
                }
            });
            // Whoever hangs up has what they wanted.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

struct Maker {
    shape: Shape,
    port: u16,
    blocks: Vec<String>,
}

impl Maker {
    fn answer(&self, host: u32, path: &str) -> Response<Full<Bytes>> {
        let page = match path.strip_prefix("/p/").and_then(|name| name.strip_suffix(".html")) {
            Some(number) => number.parse().ok().filter(|number| *number > 0),
            None => (path == "/").then_some(0),
        };
        let page = page.filter(|page| host < self.shape.hosts && *page < self.shape.pages);
        let (status, body) = match page {
            Some(page) => (200, self.page(host, page)),
            None => (404, "<!DOCTYPE html><title>404</title>".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        let html = http::HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, html);
        response
    }

    fn page(&self, host: u32, page: u32) -> String {
        let Shape { hosts, pages, links, page_bytes, .. } = self.shape;
        let mut chance = fastrand::Rng::with_seed(u64::from(host) << 32 | u64::from(page));
        let mut text = String::with_capacity(page_bytes + 1_024);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Page {page} of \
             host {host}</title></head>\n<body>\n"
        );
        let children = [2 * page + 1, 2 * page + 2].into_iter().filter(|child| *child < pages);
        let mut children = children.collect::<Vec<_>>().into_iter();
        let hosts_below = [2 * host + 1, 2 * host + 2].into_iter();
        let mut hosts_below = hosts_below.filter(|below| page == 0 && *below < hosts);
        for number in 0..links {
            let filled = page_bytes.saturating_sub(200) * number as usize / links as usize;
            self.fill(&mut text, filled, &mut chance);
            let href = if let Some(below) = hosts_below.next() {
                first_page(below, self.port)
            } else if number % 5 == 4 {
                let other = first_page(chance.u32(..hosts), self.port);
                format!("{}{}", other.trim_end_matches('/'), path(chance.u32(..pages)))
            } else {
                path(children.next().unwrap_or_else(|| chance.u32(..pages)))
            };
            // As different hands write them.
            let _ = match number % 3 {
                0 => writeln!(text, "<a class=\"x\" href=\"{href}#s{number}\">link {number}</a>"),
                1 => {
                    writeln!(text, "<a href='{href}' title=\"to &quot;it&quot;\">link {number}</a>")
                }
                _ => writeln!(text, "<a href={href} rel=noopener>link {number}</a>"),
            };
        }
        self.fill(&mut text, page_bytes.saturating_sub(20), &mut chance);
        text.push_str("</body></html>\n");
        text
    }

    /// Fills the page up to so many bytes, or a block more.
    fn fill(&self, text: &mut String, bytes: usize, chance: &mut fastrand::Rng) {
        while text.len() < bytes {
            text.push_str(&self.blocks[chance.usize(..self.blocks.len())]);
        }
    }
}

/// What stands between links: words in some markup.
fn blocks() -> Vec<String> {
    const WORDS: [&str; 24] = [
        "harbour", "the", "of", "tide", "and", "lantern", "a", "in", "boat", "rope", "to", "under",
        "slow", "with", "chart", "by", "morning", "which", "is", "north", "quay", "or", "keeps",
        "weather",
    ];
    let mut chance = fastrand::Rng::with_seed(1);
    let mut words = |count| {
        let words: Vec<_> = (0..count).map(|_| WORDS[chance.usize(..WORDS.len())]).collect();
        words.join(" ")
    };
    let block = |number| match number % 3 {
        0 => format!("<p class=\"text\">{} <em>{}</em> {}.</p>\n", words(20), words(3), words(20)),
        1 => format!("<tr><td>{}</td><td><code>{}</code></td></tr>\n", words(12), words(4)),
        _ => format!("<li><span title=\"{}\">{}</span> {}\n", words(2), words(5), words(15)),
    };
    (0..BLOCKS).map(block).collect()
}
