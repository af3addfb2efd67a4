//! A name server that says what it is told to, and what comes of that.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
};

use harness::{Trawl, Web, network::Host, secs};
use tokio::{net::UdpSocket, task::JoinHandle};

use crate::{Outcomes, WEB, World};

/// What the server says.
pub(crate) enum Reply {
    /// These records, for the question's name; those of the other family only if it is asked
    /// for.
    Addresses(Vec<IpAddr>),
    /// That the name is another one's, whose addresses are these.
    Alias(String, Vec<IpAddr>),
    /// An error code.
    Code(u8),
    /// No word.
    Nothing,
    /// What is no answer.
    Noise,
}

/// A server on port 53 of the web's first address, which the crawler's host asks.
pub(crate) struct NameServer {
    asked: Arc<Mutex<HashMap<String, usize>>>,
    task: JoinHandle<()>,
}

const NO_SUCH_NAME: u8 = 3;
const SERVER_FAILURE: u8 = 2;

impl NameServer {
    /// Answers by the name and by how often it was asked for its IPv4 addresses before.
    pub(crate) fn serve(
        world: &World,
        reply: impl Fn(&str, usize) -> Reply + Send + 'static,
    ) -> Self {
        world.crawler.asks(WEB);
        let asked: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let task = tokio::spawn(answer(world.web.clone(), Arc::clone(&asked), reply));
        Self { asked, task }
    }

    /// How often a name was asked for, by both families.
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    web: Host,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    reply: impl Fn(&str, usize) -> Reply,
) {
    let socket = UdpSocket::from_std(web.datagrams_at((WEB, 53))).unwrap();
    let mut of_v4: HashMap<String, usize> = HashMap::new();
    let mut bytes = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
        let query = &bytes[..length];
        let (name, kind, end) = question(query);
        *asked.lock().unwrap().entry(name.clone()).or_default() += 1;
        let earlier = of_v4.get(&name).copied().unwrap_or(0);
        if kind == A {
            *of_v4.entry(name.clone()).or_default() += 1;
        }
        let message = match reply(&name, earlier) {
            Reply::Nothing => continue,
            Reply::Noise => vec![0xff; 64],
            Reply::Code(code) => message(query, end, code, &[]),
            Reply::Addresses(addresses) => {
                message(query, end, 0, &records(&QUESTION_NAME, kind, &addresses))
            }
            Reply::Alias(other, addresses) => {
                let other = encoded(&other);
                let mut all = vec![record(&QUESTION_NAME, CNAME, &other)];
                all.extend(records(&other, kind, &addresses));
                message(query, end, 0, &all)
            }
        };
        // Who asked may be gone.
        let _ = socket.send_to(&message, from).await;
    }
}

const A: u8 = 1;
const CNAME: u8 = 5;
const AAAA: u8 = 28;

/// Points to the name of the question (RFC 1035, section 4.1.4).
const QUESTION_NAME: [u8; 2] = [0xc0, 12];

/// The name that a query asks for, in lower case, the type, and where the question ends.
fn question(query: &[u8]) -> (String, u8, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    (labels.join("."), query[at + 2], at + 5)
}

fn encoded(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len().to_be_bytes()[7]], label.as_bytes()].concat();
    let mut bytes: Vec<u8> = name.split('.').flat_map(label).collect();
    bytes.push(0);
    bytes
}

fn record(name: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    // Of class IN, for no time at all.
    [name, &[0, kind, 0, 1, 0, 0, 0, 0], &length, data].concat()
}

fn records(name: &[u8], kind: u8, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let record = |address: &IpAddr| match (address, kind) {
        (IpAddr::V4(v4), A) => Some(record(name, A, &v4.octets())),
        (IpAddr::V6(v6), AAAA) => Some(record(name, AAAA, &v6.octets())),
        _ => None,
    };
    addresses.iter().filter_map(record).collect()
}

fn message(query: &[u8], end: usize, code: u8, records: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(records.len()).unwrap().to_be_bytes();
    let counts = [&[0, 1][..], &count, &[0, 0, 0, 0]].concat();
    let head = [&query[..2], &[0x85, 0x80 | code], &counts, &query[12..end]].concat();
    [head, records.concat()].concat()
}

#[tokio::test]
async fn name_servers_that_lie_flood_or_say_nothing_hold_up_no_more_than_their_own_hosts() {
    let world = World::new();
    let many = |count| -> Vec<IpAddr> {
        (0..count).map(|n| Ipv4Addr::new(198, 51, 100, n).into()).collect()
    };
    let server = NameServer::serve(&world, move |name, _| match name {
        "good.test" => Reply::Addresses(vec![WEB.into()]),
        "alias.test" => Reply::Alias("good.test".into(), vec![WEB.into()]),
        // Sixteen are used, and all are judged.
        "many.test" => Reply::Addresses([many(20), vec!["10.0.0.1".parse().unwrap()]].concat()),
        // More than a message may have that nobody asked to be so long.
        "giant.test" => Reply::Addresses(many(250)),
        "loop.test" => Reply::Alias("pool.test".into(), Vec::new()),
        "pool.test" => Reply::Alias("loop.test".into(), Vec::new()),
        "failing.test" => Reply::Code(SERVER_FAILURE),
        "silent.test" => Reply::Nothing,
        "noise.test" => Reply::Noise,
        name if name.starts_with("chain") => {
            let number: usize = name[5..name.len() - 5].parse().unwrap();
            Reply::Alias(format!("chain{}.test", number + 1), Vec::new())
        }
        name if name.ends_with(".spam.test") => Reply::Addresses(vec!["10.9.9.9".parse().unwrap()]),
        _ => Reply::Code(NO_SUCH_NAME),
    });
    let spam: Vec<String> = (0..100)
        .flat_map(|host| (0..3).map(move |page| format!("http://n{host}.spam.test/{page}")))
        .collect();
    let none: Vec<String> = (0..3).map(|page| format!("http://none.test/{page}")).collect();
    let site = Web::new()
        .page("/", spam.iter().chain(&none).map(String::as_str))
        .page("/alias", [])
        .serve_at_address(&world.web, (WEB, 80));
    let odd = ["many", "loop", "chain0", "giant", "failing", "silent", "noise"];
    let odd = odd.map(|name| format!("http://{name}.test/"));
    let good = ["http://good.test/".to_owned(), "http://alias.test/alias".to_owned()];
    let trawl = Trawl::new();
    let crawl = trawl.crawl(good.iter().chain(&odd)).on(&world.crawler);
    let crawl = crawl.set("--allow-net", format!("{WEB}/32")).set("--scope", "any");
    let crawl = crawl.and("--allow-net", "198.51.100.0/24");
    let crawl = crawl.set("--attempts", "1").set("--connect-timeout", "1s");
    crawl.within(secs(60)).done().await.expect(0);

    let outcomes = Outcomes::of(&trawl).await;
    assert_eq!(good.map(|url| outcomes.of_url(&url).class.clone()), ["200", "200"]);
    let classes = odd.map(|url| outcomes.of_url(&url).class.clone());
    assert_eq!(classes[0], "forbidden_address", "one bad address spoils all");
    assert_eq!(classes[3..], ["dns", "dns", "dns", "dns"]);
    for class in &classes[1..3] {
        assert!(["dns", "no_such_host"].contains(&&**class), "aliases without end: {class}");
    }
    for url in &spam {
        assert_eq!(outcomes.of_url(url).class, "forbidden_address");
    }
    assert_eq!(outcomes.of_url(&none[2]).class, "no_such_host");
    // Once for each family: what is known, absence too, is not asked for again.
    for name in ["none.test", "n7.spam.test"] {
        assert_eq!(server.asked(name), 2, "{name}");
    }
    assert!((1..=40).contains(&server.asked("loop.test")), "{}", server.asked("loop.test"));
    assert_eq!(server.asked("chain30.test"), 0);
    assert_eq!(site.visits_of("/alias"), 1);
}
