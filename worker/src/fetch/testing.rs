//! What the fetcher's tests are made of: a site and a name server on loopback
//! that do as they are told, and count.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};
use trawl_shared::{spec::CrawlSpec, units::Span, url::CrawlUrl};

/// What a site sends for a request, and what it does then.
#[derive(Clone)]
pub(super) struct Answer(pub(super) Vec<u8>, pub(super) Then);

#[derive(Clone, Copy)]
pub(super) enum Then {
    /// Waits for the next request.
    Next,
    Close,
    /// Says nothing more.
    Hang,
    /// Sends the same again and again, with a pause in between.
    Repeat(Duration),
}

/// A site. It is gone with its runtime.
pub(super) struct Site {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Site {
    /// Answers every request by its head.
    pub(super) async fn serve(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (Arc::clone(&site.connections), Arc::clone(&site.requests));
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
                tokio::spawn(async move {
                    converse(stream, &*answer, &requests).await;
                });
            }
        });
        site
    }

    /// Answers everything with that.
    pub(super) async fn always(answer: Answer) -> Self {
        Self::serve(move |_| answer.clone()).await
    }

    pub(super) fn url(&self, path: &str) -> CrawlUrl {
        url(&format!("http://{}{path}", self.address))
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The heads of the requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn converse(
    mut stream: TcpStream,
    answer: &(dyn Fn(&str) -> Answer + Send + Sync),
    requests: &Mutex<Vec<String>>,
) {
    while let Some(head) = read_head(&mut stream).await {
        requests.lock().unwrap().push(head.clone());
        let Answer(bytes, then) = answer(&head);
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        match then {
            Then::Next => {}
            Then::Close => return,
            Then::Hang => std::future::pending().await,
            Then::Repeat(pause) => {
                while stream.write_all(&bytes).await.is_ok() {
                    tokio::time::sleep(pause).await;
                }
                return;
            }
        }
    }
}

/// A request's head; for what is no HTTP, what came first.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(length) => head.extend_from_slice(&bytes[..length]),
        }
        if head.ends_with(b"\r\n\r\n") || !head.starts_with(b"GET ") {
            return Some(String::from_utf8_lossy(&head).into_owned());
        }
    }
}

/// A whole answer, after which the connection stays open.
pub(super) fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    Answer([head.as_bytes(), body].concat(), Then::Next)
}

pub(super) fn ok(body: &[u8]) -> Answer {
    answer("200 OK", &[], body)
}

/// These bytes and no more.
pub(super) fn raw(bytes: impl AsRef<[u8]>, then: Then) -> Answer {
    Answer(bytes.as_ref().to_vec(), then)
}

pub(super) fn url(text: &str) -> CrawlUrl {
    CrawlUrl::parse(text).unwrap()
}

/// A crawl that may fetch from loopback, with limits that no test should reach.
pub(super) fn spec() -> CrawlSpec {
    CrawlSpec {
        user_agent: "testbot/1.0".into(),
        allow_net: vec!["127.0.0.0/8".parse().unwrap()],
        connect_timeout: Span::secs(5),
        ..CrawlSpec::default()
    }
}

/// A SOCKS5 proxy (RFC 1928) that takes everybody, but wants a user and a word if it is
/// offered some (RFC 1929). It answers a request with `code`, and for 0 with this site's
/// answers, whatever host it was asked for. Returns its address, and who came and what hosts
/// it was asked for.
pub(super) async fn socks_proxy(
    code: u8,
    site: SocketAddr,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let hosts = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let hosts = Arc::clone(&hosts);
            tokio::spawn(async move {
                let mut bytes = [0; 512];
                stream.read_exact(&mut bytes[..3]).await.unwrap();
                stream.write_all(&[5, bytes[2]]).await.unwrap();
                if bytes[2] == 2 {
                    let length = stream.read(&mut bytes).await.unwrap();
                    let (user, word) = bytes[2..length].split_at(bytes[1].into());
                    let came = [user, b":", &word[1..]].concat();
                    hosts.lock().unwrap().push(String::from_utf8(came).unwrap());
                    stream.write_all(&[1, 0]).await.unwrap();
                }
                let length = stream.read(&mut bytes).await.unwrap();
                let host = match bytes[3] {
                    3 => String::from_utf8_lossy(&bytes[5..length - 2]).into_owned(),
                    kind => format!("an address of kind {kind}"),
                };
                hosts.lock().unwrap().push(host);
                stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
                if code == 0 {
                    let mut site = TcpStream::connect(site).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut site).await;
                }
            });
        }
    });
    (address, asked)
}

/// What a name server says.
pub(super) enum Reply {
    Addresses(Vec<IpAddr>),
    Code(u8),
    Nothing,
}

/// A name server on UDP. Returns its address and the count of its questions.
pub(super) async fn name_server(
    reply: impl Fn(&str) -> Reply + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let questions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&questions);
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            count.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = dns_answer(&bytes[..length], &reply) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    (address, questions)
}

fn dns_answer(query: &[u8], reply: &impl Fn(&str) -> Reply) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
        at = end;
    }
    let kind = query[at + 2];
    let question = &query[12..at + 5];
    let (code, addresses) = match reply(&labels.join(".")) {
        Reply::Addresses(addresses) => (0, addresses),
        Reply::Code(code) => (code, Vec::new()),
        Reply::Nothing => return None,
    };
    let records: Vec<Vec<u8>> = addresses
        .into_iter()
        .filter_map(|address| match (address, kind) {
            (IpAddr::V4(v4), 1) => Some(v4.octets().to_vec()),
            (IpAddr::V6(v6), 28) => Some(v6.octets().to_vec()),
            _ => None,
        })
        .collect();
    let (count, flags) = (records.len().to_be_bytes()[7], [0x81, 0x80 | code]);
    let mut answer = [&query[..2], &flags, &[0, 1, 0, count, 0, 0, 0, 0], question].concat();
    for record in records {
        // The name is the question's; class IN; one minute.
        let length = record.len().to_be_bytes()[7];
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, length]);
        answer.extend(record);
    }
    Some(answer)
}
