//! TLS that is not to be believed, HTTP/2 that is an attack. No body comes of it.

use std::{fs, path::PathBuf, sync::Arc};

use harness::{Trawl, secs};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::{
    Outcomes, World,
    attackers::Attack,
    names::{NameServer, Reply},
};

/// An authority.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Its certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A server with a certificate for a host.
    pub(crate) fn server(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Server {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Server { chain: vec![certificate.der().clone()], key: key.serialize_der() }
    }
}

/// A server's certificate and key.
pub(crate) struct Server {
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Server {
    /// What accepts TLS in its name, for this protocol.
    pub(crate) fn speaks(self, protocol: &str) -> TlsAcceptor {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(self.key).unwrap();
        let builder = builder.with_no_client_auth().with_single_cert(self.chain, key);
        let mut config = builder.unwrap();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len().to_be_bytes();
    [&length[5..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// `:status: 200` by HPACK's static table (RFC 7541).
const STATUS_200: u8 = 0x88;

/// `x: y...`, never indexed.
fn header(bytes: usize) -> Vec<u8> {
    assert!((127..255).contains(&bytes));
    let length = [0x7f, (bytes - 127).to_be_bytes()[7]];
    [&[0x10, 1, b'x'][..], &length, &vec![b'y'; bytes]].concat()
}

/// What HTTP/2 attacks are called, what they do, and the classes that they may end in.
fn floods() -> Vec<(&'static str, Attack, &'static [&'static str])> {
    let hello = frame(SETTINGS, 0, 0, &[]);
    let with = |frames: &[Vec<u8>]| [hello.clone(), frames.concat()].concat();
    let begun = frame(HEADERS, 0, 1, &[STATUS_200]);
    let answered = frame(HEADERS, END_HEADERS, 1, &[STATUS_200]);
    vec![
        (
            "continuations",
            Attack::flood(with(&[begun]), frame(CONTINUATION, 0, 1, &header(200)).repeat(50)),
            &["broken", "protocol"],
        ),
        (
            "large-head",
            Attack::hang(with(
                &[frame(HEADERS, END_HEADERS, 1, &header(200).repeat(80)).repeat(9)],
            )),
            &["broken", "protocol"],
        ),
        (
            "resets",
            Attack::flood(with(&[]), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]).repeat(100)),
            &["broken", "protocol"],
        ),
        (
            "pushes",
            Attack::flood(with(&[]), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])),
            &["broken", "protocol"],
        ),
        (
            "settings",
            Attack::flood(with(&[]), hello.repeat(100)),
            &["broken", "protocol", "timeout"],
        ),
        (
            "pings",
            Attack::flood(with(&[]), frame(PING, 0, 0, &[0; 8]).repeat(100)),
            &["broken", "protocol", "timeout"],
        ),
        (
            "empty-data",
            Attack::flood(with(&[answered]), frame(DATA, 0, 1, &[]).repeat(100)),
            &["broken", "protocol", "timeout"],
        ),
        ("silent", Attack::hang(""), &["timeout"]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_believed_without_a_certificate_and_no_flood_goes_on() {
    let world = World::new();
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let trawl = Trawl::new();
    let trusted: PathBuf = trawl.file("authority.pem");
    fs::write(&trusted, &authority.pem).unwrap();

    let page = || Attack::close("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let speaks = |server: Server| Some(server.speaks("http/1.1"));
    let long = |host: &str| {
        let mut server = authority.server(host, |_| ());
        server.chain = vec![server.chain[0].clone(); 300];
        speaks(server)
    };
    let self_signed = |host: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([host.to_owned()]).unwrap().self_signed(&key);
        let chain = vec![certificate.unwrap().der().clone()];
        speaks(Server { chain, key: key.serialize_der() })
    };
    let signed =
        |host: &str, change: fn(&mut CertificateParams)| speaks(authority.server(host, change));
    // A ServerHello of TLS 1.0, and the alert of a server that knows nothing later.
    let hello = [&[22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1][..], &[7; 32], &[0, 0, 0x2f, 0]].concat();
    let alert = [21, 3, 1, 0, 2, 2, 70];
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(2900, 1, 1);
    let mut cases = vec![
        ("good", page(), signed("good.test", |_| ()), &["200"][..], ""),
        ("expired", page(), signed("expired.test", expired), &["tls"], "expired"),
        ("early", page(), signed("early.test", early), &["tls"], "not valid yet"),
        ("wrong", page(), signed("other.test", |_| ()), &["tls"], "another host"),
        ("self", page(), self_signed("self.test"), &["tls"], "unknown issuer"),
        (
            "stranger",
            page(),
            speaks(stranger.server("stranger.test", |_| ())),
            &["tls"],
            "unknown issuer",
        ),
        ("long", page(), long("long.test"), &["tls"], ""),
        ("old", Attack::hang(hello), None, &["tls"], ""),
        ("alert", Attack::close(alert), None, &["tls"], ""),
        ("plain", Attack::close("HTTP/1.1 400 No\r\n\r\n"), None, &["tls"], ""),
        ("stalled", Attack::hang(""), None, &["timeout"], "no connection within 700ms"),
        ("endless", Attack::flood("", [22, 3, 3, 0, 1, 0]), None, &["tls", "timeout"], ""),
    ];
    for (name, attack, classes) in floods() {
        let tls = authority.server(&format!("{name}.test"), |_| ()).speaks("h2");
        cases.push((name, attack, Some(tls), classes, ""));
    }

    let mut addresses = std::collections::HashMap::new();
    let mut servers = Vec::new();
    for (number, (name, attack, tls, ..)) in (1..).zip(&cases) {
        let address = world.address(number);
        addresses.insert(format!("{name}.test"), address);
        servers.push(attack.clone().serve(world.web.listen_at((address, 443)), tls.clone()));
    }
    let _names = NameServer::serve(&world, move |name, _| match addresses.get(name) {
        Some(address) => Reply::Addresses(vec![(*address).into()]),
        None => Reply::Code(3),
    });
    let url = |name: &str| format!("https://{name}.test/");
    let crawl = trawl.crawl(cases.iter().map(|(name, ..)| url(name))).on(&world.crawler);
    let crawl = crawl.set("--allow-net", "198.51.100.0/24").variable("SSL_CERT_FILE", &trusted);
    let crawl = crawl.set("--attempts", "1").set("--connect-timeout", "700ms");
    let crawl = crawl.set("--read-timeout", "1s").set("--fetch-timeout", "3s");
    crawl.within(secs(60)).done().await.expect(0);

    let (outcomes, pages) = (Outcomes::of(&trawl).await, trawl.pages().await);
    assert_eq!(pages.urls(), [url("good")], "no other body is accepted");
    let mut odd = Vec::new();
    for (name, _, _, classes, detail) in &cases {
        let outcome = outcomes.of_url(&url(name));
        if !classes.contains(&&*outcome.class) || !outcome.detail.contains(detail) {
            odd.push(format!("{name}: {outcome:?}"));
        }
    }
    assert!(odd.is_empty(), "{odd:#?}");
    for (server, (name, ..)) in servers.iter().zip(&cases) {
        let held = server.held();
        assert!(held.len() == 1 && held[0] <= secs(5), "{name}: {held:?}");
    }
}
