//! Pages of TLS hosts through proxies, of which some are dead.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
};

use harness::Trawl;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
    task::JoinSet,
};

use crate::{attackers::Attack, tls::Authority};

/// A proxy that makes tunnels to one site, whatever host it is asked for. It ends with the
/// set.
async fn tunnels_to(site: SocketAddr, tasks: &mut JoinSet<()>) -> (SocketAddr, Heads) {
    let listener = tokio::net::TcpListener::bind("127.0.1.8:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Heads::default();
    let seen = heads.clone();
    tasks.spawn(async move {
        let mut tunnels = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tunnels.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                seen.lock().unwrap().push(String::from_utf8(head).unwrap());
                stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                let mut site = TcpStream::connect(site).await.unwrap();
                // Either end may break off.
                let _ = copy_bidirectional(&mut stream, &mut site).await;
            });
        }
    });
    (address, heads)
}

type Heads = Arc<Mutex<Vec<String>>>;

#[tokio::test]
async fn a_tunnel_carries_tls_end_to_end_and_goes_round_a_dead_proxy() {
    let authority = Authority::new("ours");
    let trawl = Trawl::new();
    let trusted = trawl.write("authority.pem", "");
    fs::write(&trusted, authority.pem()).unwrap();
    let hosts = ["a.test", "b.test", "c.test", "d.test"];
    let tls = authority.server("*.test", |params| {
        *params = rcgen::CertificateParams::new(hosts.map(str::to_owned)).unwrap();
    });
    let listener = TcpListener::bind("127.0.1.9:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let site = listener.local_addr().unwrap();
    let page = Attack::close("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let _site = page.serve(listener, Some(tls.speaks("http/1.1")));
    let mut tasks = JoinSet::new();
    let (proxy, heads) = tunnels_to(site, &mut tasks).await;

    let crawl = trawl.crawl(hosts.map(|host| format!("https://{host}/")));
    let crawl = crawl.set("--proxy", format!("http://me:word@{proxy}"));
    let crawl = crawl.and("--proxy", "http://127.0.1.8:9").and("--proxy", "socks5h://127.0.1.8:9");
    crawl.set("--attempts", "1").variable("SSL_CERT_FILE", &trusted).done().await.expect(0);

    let pages = trawl.pages().await;
    assert_eq!(pages.urls(), hosts.map(|host| format!("https://{host}/")));
    let mut heads = heads.lock().unwrap().clone();
    heads.sort();
    assert_eq!(heads.len(), hosts.len());
    for (head, host) in heads.iter().zip(hosts) {
        assert!(head.starts_with(&format!("CONNECT {host}:443 HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic bWU6d29yZA==\r\n"), "{head}");
    }
}
