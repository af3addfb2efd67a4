//! A small web on loopback that counts visits and misbehaves on request.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use flate2::{Compression, write::GzEncoder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{Duration, network::Host, secs};

/// A web to be served: paths and what each answers. Any other path is a 404, `/robots.txt` too.
#[derive(Debug, Default)]
pub struct Web {
    answers: HashMap<String, Vec<Answer>>,
    /// What other paths answer.
    made_up: Option<fn(&str) -> Answer>,
}

/// A web that is being served, until dropped.
#[derive(Debug)]
pub struct Site {
    address: SocketAddr,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

/// One request that a site got.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Path and query.
    pub path: String,
    /// When its head was read.
    pub began: Instant,
    /// When the last of the answer was about to be sent; none while it is not.
    pub ended: Option<Instant>,
    /// The number of the connection that it came by.
    pub connection: usize,
    /// Its headers, names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// What a path answers.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    wait: Duration,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Whole,
    Dropped,
    Cut,
    Endless,
    Dripping,
}

#[derive(Debug)]
struct Log {
    visits: Mutex<Vec<Visit>>,
    count: watch::Sender<usize>,
    /// How long every answer takes, beside its own wait.
    slowness: watch::Sender<Duration>,
}

/// Bytes of the largest request head that a site reads.
const HEAD_BYTES_MAX: usize = 64 * 1024;

impl Answer {
    /// A body of any type.
    pub fn bytes(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Self { status: 200, headers, body: body.into(), wait: Duration::ZERO, how: How::Whole }
    }

    /// An HTML document in UTF-8.
    pub fn html(body: impl Into<Vec<u8>>) -> Self {
        Self::bytes("text/html; charset=utf-8", body)
    }

    /// A plain text.
    pub fn text(body: &str) -> Self {
        Self::bytes("text/plain; charset=utf-8", body)
    }

    /// An HTML document with these links.
    pub fn links<S: AsRef<str>>(title: &str, links: impl IntoIterator<Item = S>) -> Self {
        let mut html = format!("<!DOCTYPE html>\n<title>{title}</title>\n");
        for link in links {
            let link = link.as_ref();
            writeln!(html, "<p><a href=\"{link}\">{link}</a>").expect("a string takes all");
        }
        Self::html(html)
    }

    /// A short document with this status.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::html(format!("<title>{status}</title>")) }
    }

    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).header("Location", location)
    }

    /// With this status.
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With its body compressed by gzip.
    pub fn gzipped(self) -> Self {
        self.gzip().header("Content-Encoding", "gzip")
    }

    /// With its body compressed by gzip, without a word of it: a file that is so.
    pub fn gzip(mut self) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&self.body).expect("memory takes all");
        self.body = encoder.finish().expect("memory takes all");
        self
    }

    /// Only after a while.
    pub fn after(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Not at all: the connection is closed.
    pub fn dropped(self) -> Self {
        Self { how: How::Dropped, ..self }
    }

    /// Cut off in the middle of its body.
    pub fn cut(self) -> Self {
        Self { how: How::Cut, ..self }
    }

    /// Followed by spaces for ever.
    pub fn endless(self) -> Self {
        Self { how: How::Endless, ..self }
    }

    /// Followed by a space every tenth of a second, for ever.
    pub fn dripping(self) -> Self {
        Self { how: How::Dripping, ..self }
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Such\r\n", self.status);
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("a string takes all");
        }
        let body = match self.how {
            How::Endless | How::Dripping => "Connection: close\r\n\r\n".to_owned(),
            _ => format!("Content-Length: {}\r\n\r\n", self.body.len()),
        };
        head + &body
    }
}

impl Web {
    /// A web without a page.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a document that has these links.
    pub fn page<'a>(self, path: &str, links: impl IntoIterator<Item = &'a str>) -> Self {
        let answer = Answer::links(path, links);
        self.answer(path, answer)
    }

    /// With a path that answers so.
    pub fn answer(self, path: &str, answer: Answer) -> Self {
        self.answers(path, [answer])
    }

    /// With a path that answers so in turn, the last one ever after.
    pub fn answers(mut self, path: &str, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.answers.insert(path.to_owned(), answers.into_iter().collect());
        self
    }

    /// With an answer for every path that has none of its own.
    pub fn made_up(mut self, answer: fn(&str) -> Answer) -> Self {
        self.made_up = Some(answer);
        self
    }

    /// With a robots.txt.
    pub fn robots(self, text: &str) -> Self {
        self.answer("/robots.txt", Answer::text(text))
    }

    /// With `/` and the pages `/1` to `/count - 1`, each of which takes `wait` and links to three
    /// others, to `/`, and to a page that is not there.
    pub fn tree(mut self, count: usize, wait: Duration) -> Self {
        let path = |number| {
            if number == 0 { "/".to_owned() } else { format!("/{number}") }
        };
        for number in 0..count {
            let below = (3 * number + 1..3 * number + 4).filter(|&number| number < count);
            let mut links: Vec<_> = below.map(path).collect();
            links.extend([path(0), format!("/none/{}", number % 7)]);
            let title = format!("page {number} {}", "of many ".repeat(number % 50));
            self = self.answer(&path(number), Answer::links(&title, links).after(wait));
        }
        self
    }

    /// Serves it on a free port of 127.0.0.1.
    pub async fn serve(self) -> Site {
        self.serve_at([127, 0, 0, 1]).await
    }

    /// Serves it on a free port of another loopback address.
    pub async fn serve_at(self, address: [u8; 4]) -> Site {
        self.serve_on(SocketAddr::from((address, 0))).await
    }

    /// Serves it on this port of a loopback address that nobody else uses.
    pub async fn serve_on(self, address: SocketAddr) -> Site {
        self.serve_by(TcpListener::bind(address).await.unwrap())
    }

    /// Serves it on a free port of a host of a network.
    pub fn serve_at_host(self, host: &Host) -> Site {
        self.serve_by(TcpListener::from_std(host.listen()).unwrap())
    }

    /// Serves it at one of the addresses of a host of a network.
    pub fn serve_at_address(self, host: &Host, address: impl Into<SocketAddr>) -> Site {
        self.serve_by(TcpListener::from_std(host.listen_at(address)).unwrap())
    }

    fn serve_by(self, listener: TcpListener) -> Site {
        let log = Arc::new(Log {
            visits: Mutex::default(),
            count: watch::Sender::new(0),
            slowness: watch::Sender::new(Duration::ZERO),
        });
        Site {
            address: listener.local_addr().unwrap(),
            log: log.clone(),
            task: tokio::spawn(accept(listener, Arc::new(self), log)),
        }
    }

    fn answer_to(&self, path: &str, visit: usize) -> Answer {
        match self.answers.get(path) {
            Some(answers) => answers[visit.min(answers.len() - 1)].clone(),
            None => self.made_up.map_or_else(|| Answer::status(404), |answer| answer(path)),
        }
    }
}

impl Site {
    /// A URL on it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on every answer takes this much longer.
    pub fn slow_down(&self, slowness: Duration) {
        self.log.slowness.send_replace(slowness);
    }

    /// All requests so far, in order.
    pub fn visits(&self) -> Vec<Visit> {
        self.log.visits.lock().unwrap().clone()
    }

    /// How often a path was asked for.
    pub fn visits_of(&self, path: &str) -> usize {
        self.visits().iter().filter(|visit| visit.path == path).count()
    }

    /// The paths asked for, in order.
    pub fn paths(&self) -> Vec<String> {
        self.visits().into_iter().map(|visit| visit.path).collect()
    }

    /// The paths asked for, sorted, each with how often.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for path in self.paths() {
            *counts.entry(path).or_default() += 1;
        }
        counts
    }

    /// Returns when there were this many requests.
    ///
    /// # Panics
    /// If that takes more than a minute.
    pub async fn visited(&self, count: usize) {
        let mut so_far = self.log.count.subscribe();
        let done = timeout(secs(60), so_far.wait_for(|&so_far| so_far >= count)).await;
        assert!(done.is_ok(), "after a minute, {} of {count} requests", self.visits().len());
    }

    /// Returns when this path has been asked for.
    ///
    /// # Panics
    /// If that takes more than a minute.
    pub async fn asked_for(&self, path: &str) {
        self.asked_for_again(path, 1).await;
    }

    /// Returns when this path has been asked for so many times.
    ///
    /// # Panics
    /// If that takes more than a minute.
    pub async fn asked_for_again(&self, path: &str, times: usize) {
        let mut count = self.log.count.subscribe();
        let asked = async {
            while self.visits_of(path) < times {
                count.changed().await.expect("the site is there as long as its log");
            }
        };
        let done = timeout(secs(60), asked).await;
        assert!(done.is_ok(), "after a minute, not {times} of {path} in {:?}", self.counts());
    }

    /// Forgets all requests so far.
    pub fn forget(&self) {
        self.log.visits.lock().unwrap().clear();
        self.log.count.send_replace(0);
    }

    /// The most requests that it was busy with at once.
    pub fn most_at_once(&self) -> usize {
        let visits = self.visits();
        let busy_at = |moment| {
            let busy = |visit: &&Visit| {
                visit.began <= moment && visit.ended.is_none_or(|ended| ended > moment)
            };
            visits.iter().filter(busy).count()
        };
        visits.iter().map(|visit| busy_at(visit.began)).max().unwrap_or(0)
    }

    /// Between the end of each of these requests and the beginning of the next one: the waits.
    pub fn waits(&self, concerns: impl Fn(&Visit) -> bool) -> Vec<Duration> {
        let visits: Vec<_> = self.visits().into_iter().filter(concerns).collect();
        let wait = |pair: &[Visit]| pair[1].began - pair[0].ended.expect("ended before the next");
        visits.windows(2).map(wait).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Log {
    fn begin(&self, connection: usize, path: &str, headers: BTreeMap<String, String>) -> usize {
        let began = Instant::now();
        let mut visits = self.visits.lock().unwrap();
        visits.push(Visit { path: path.to_owned(), began, ended: None, connection, headers });
        visits.len() - 1
    }

    /// Which visit of its path this is, from 0. Whoever waits for it hears of it now.
    fn earlier(&self, index: usize) -> usize {
        let visits = self.visits.lock().unwrap();
        let path = &visits[index].path;
        let earlier = visits[..index].iter().filter(|visit| visit.path == *path).count();
        self.count.send_replace(visits.len());
        earlier
    }

    fn end(&self, index: usize) {
        if let Some(visit) = self.visits.lock().unwrap().get_mut(index) {
            visit.ended = Some(Instant::now());
        }
    }
}

async fn accept(listener: TcpListener, web: Arc<Web>, log: Arc<Log>) {
    // The set belongs to this task: when the site is dropped, its connections are too.
    let mut connections = tokio::task::JoinSet::new();
    for connection in 0.. {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (web, log) = (web.clone(), log.clone());
        connections.spawn(async move {
            // A peer that goes away in the middle is what some tests are about.
            let _ = converse(stream, connection, &web, &log).await;
        });
    }
}

async fn converse(
    mut stream: TcpStream,
    connection: usize,
    web: &Web,
    log: &Log,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Some((path, headers)) = request(&mut stream, &mut buffer).await? else {
            return Ok(());
        };
        let index = log.begin(connection, &path, headers);
        let answer = web.answer_to(&path, log.earlier(index));
        let slowness = *log.slowness.borrow();
        sleep(answer.wait + slowness).await;

        let head = answer.head();
        let (body, rest) = match answer.how {
            How::Cut => (&answer.body[..answer.body.len() / 2], false),
            _ => (&answer.body[..], true),
        };
        if !matches!(answer.how, How::Endless | How::Dripping) {
            log.end(index);
        }
        match answer.how {
            How::Dropped => return Ok(()),
            How::Whole | How::Cut => {
                stream.write_all(&[head.as_bytes(), body].concat()).await?;
                if !rest {
                    return Ok(());
                }
            }
            How::Endless | How::Dripping => {
                let sent = stream.write_all(&[head.as_bytes(), body].concat()).await;
                let sent = match sent {
                    Ok(()) => go_on(&mut stream, answer.how).await,
                    failed => failed,
                };
                log.end(index);
                return sent;
            }
        }
    }
}

/// Sends spaces until the peer has had enough.
async fn go_on(stream: &mut TcpStream, how: How) -> io::Result<()> {
    loop {
        match how {
            How::Dripping => {
                sleep(Duration::from_millis(100)).await;
                stream.write_all(b" ").await?;
            }
            _ => stream.write_all(&[b' '; 16 * 1024]).await?,
        }
    }
}

/// Reads the head of a request; none at the end of the connection.
async fn request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(String, BTreeMap<String, String>)>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if buffer.len() > HEAD_BYTES_MAX || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Some((path.to_owned(), headers)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(site: &Site, stream: &mut TcpStream, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", site.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = vec![0; 4096];
        let length = stream.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_site_answers_in_turn_and_counts() {
        let site = Web::new()
            .page("/", ["/a"])
            .answers("/a", [Answer::status(503), Answer::text("here")])
            .answer("/gone", Answer::text("").dropped())
            .serve()
            .await;
        let mut stream = TcpStream::connect(site.address).await.unwrap();

        assert!(get(&site, &mut stream, "/").await.ends_with("<p><a href=\"/a\">/a</a>\n"));
        assert!(get(&site, &mut stream, "/a").await.starts_with("HTTP/1.1 503 "));
        assert!(get(&site, &mut stream, "/a").await.ends_with("\r\n\r\nhere"));
        assert!(get(&site, &mut stream, "/b?c").await.starts_with("HTTP/1.1 404 "));
        assert_eq!(get(&site, &mut stream, "/gone").await, "");

        site.visited(5).await;
        assert_eq!(site.paths(), ["/", "/a", "/a", "/b?c", "/gone"]);
        assert_eq!(site.visits_of("/a"), 2);
        assert_eq!(site.most_at_once(), 1);
        assert!(site.visits().iter().all(|visit| visit.connection == 0));
    }

    #[tokio::test]
    async fn requests_at_once_are_seen() {
        let slow = Answer::text("x").after(Duration::from_millis(300));
        let site = Web::new().answer("/", slow).serve().await;
        let mut one = TcpStream::connect(site.address).await.unwrap();
        let mut two = TcpStream::connect(site.address).await.unwrap();
        tokio::join!(get(&site, &mut one, "/"), get(&site, &mut two, "/"));
        assert_eq!(site.most_at_once(), 2);
    }
}
