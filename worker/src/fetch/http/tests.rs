use std::{io::Write as _, net::IpAddr, sync::atomic::Ordering, time::Duration};

use flate2::{Compression, write::GzEncoder};
use tokio::{net::TcpListener, time::Instant};
use trawl_shared::{outcome::FailureKind, page::Truncated};

use super::*;
use crate::fetch::testing::{
    Answer, Reply, Site, Then, answer, name_server, ok, raw, socks_proxy, spec, url,
};

fn fetcher(change: impl FnOnce(&mut CrawlSpec)) -> HttpFetcher {
    let mut spec = spec();
    change(&mut spec);
    HttpFetcher::new(&spec).unwrap()
}

/// What fetching the site's `/` says when it fails.
async fn failure(site: &Site) -> FetchError {
    fetcher(|_| ()).get(&site.url("/")).await.unwrap_err()
}

fn impatient(spec: &mut CrawlSpec) {
    spec.connect_timeout = Span::millis(150);
    spec.read_timeout = Span::millis(200);
    spec.fetch_timeout = Span::millis(400);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A port that nothing listens on.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_page_is_all_that_was_sent_and_received() {
    let site = Site::serve(|_| {
        let headers = [("Content-Type", "text/html"), ("set-cookie", "a=b"), ("set-cookie", "c=d")];
        answer("203 Whatever", &headers, b"<p>hello")
    })
    .await;
    let fetcher = fetcher(|_| ());
    let (first, second) = (site.url("/a/b?c=d&e"), site.url("/"));
    let page = fetcher.get(&first).await.unwrap();
    fetcher.get(&second).await.unwrap();

    assert_eq!((page.status, page.version), (203, Version::HTTP_11));
    assert_eq!(page.headers["content-type"], "text/html");
    assert_eq!(page.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!((&page.wire[..], &page.body[..]), (&b"<p>hello"[..], &b"<p>hello"[..]));
    assert_eq!(page.wire.as_ptr(), page.body.as_ptr());
    assert_eq!((page.truncated, page.address), (None, Some(site.address)));
    assert_eq!(page.url, first);

    let head = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: testbot/1.0\r\n\
             accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
             accept-encoding: gzip, deflate, br, zstd\r\n\r\n",
            site.address
        )
    };
    // No cookie comes back, no page is named as the one before, one connection does.
    assert_eq!(site.requests(), [head("/a/b?c=d&e"), head("/")]);
    assert_eq!(String::from_utf8(page.request_head).unwrap(), head("/a/b?c=d&e"));
    assert_eq!(site.connections(), 1);
}

#[tokio::test]
async fn a_url_goes_out_as_its_canonical_string() {
    let site = Site::always(ok(b"")).await;
    let fetcher = fetcher(|_| ());
    let paths = [
        "/%C3%A4%20b/%2e%2F%2f//c;d=1",
        "/a|b^c[d]e'(f)*!$~@:,+",
        "/?q=`{x}|^\\[]'&a=%zz&&=?/",
        "/?",
        "/%",
        "//double//",
        "/\u{e4}\u{4e2d}?\u{e4}=\u{1f600}",
    ];
    for path in paths {
        let url = site.url(path);
        let page = fetcher.get(&url).await.unwrap();
        let line = format!("GET {} HTTP/1.1\r\n", url.path_and_query());
        assert!(site.requests().last().unwrap().starts_with(&line), "{url}");
        assert!(page.request_head.starts_with(line.as_bytes()), "{url}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    for status in ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"] {
        let site = Site::serve(move |_| answer(status, &[("location", "/next")], b"gone")).await;
        let page = fetcher(|_| ()).get(&site.url("/")).await.unwrap();
        assert_eq!(page.status.to_string(), status[..3]);
        assert_eq!(page.headers["location"], "/next");
        assert_eq!(page.body, "gone");
        assert_eq!(site.requests().len(), 1);
    }
}

#[tokio::test]
async fn every_status_is_an_answer() {
    for status in
        ["204 No Content", "304 Not Modified", "404 Gone", "429 Slow", "500 Oops", "799 Odd"]
    {
        let site =
            Site::serve(move |_| raw(format!("HTTP/1.1 {status}\r\n\r\n"), Then::Close)).await;
        let page = fetcher(|_| ()).get(&site.url("/")).await.unwrap();
        assert_eq!((page.status.to_string(), page.truncated), (status[..3].into(), None));
    }
}

#[tokio::test]
async fn a_coded_body_is_kept_in_both_forms() {
    let coded = gzip(b"hello hello hello");
    let sent = coded.clone();
    let site = Site::serve(move |head| match head.starts_with("GET /two ") {
        true => answer("200 OK", &[("content-encoding", "gzip, gzip")], &sent),
        false => answer("200 OK", &[("content-encoding", "gzip")], &sent),
    })
    .await;
    let fetcher = fetcher(|_| ());
    let page = fetcher.get(&site.url("/")).await.unwrap();
    assert_eq!((&page.wire[..], &page.body[..]), (&coded[..], &b"hello hello hello"[..]));
    assert_eq!(page.headers["content-encoding"], "gzip");
    let page = fetcher.get(&site.url("/two")).await.unwrap();
    assert_eq!((&page.wire[..], &page.body[..], page.truncated), (&coded[..], &coded[..], None));
}

#[tokio::test]
async fn a_body_is_cut_at_the_limit_exactly() {
    let site = Site::serve(|head| match head.starts_with("GET /longer ") {
        true => ok(&[b'x'; 2049]),
        false => ok(&[b'x'; 2048]),
    })
    .await;
    let fetcher = fetcher(|spec| spec.body_limit = "2KiB".parse().unwrap());
    let page = fetcher.get(&site.url("/")).await.unwrap();
    assert_eq!((page.body.len(), page.truncated), (2048, None));
    let page = fetcher.get(&site.url("/longer")).await.unwrap();
    assert_eq!((page.body.len(), page.truncated), (2048, Some(Truncated::Length)));
    let page = fetcher.get_at_least(&site.url("/longer"), 2049).await.unwrap();
    assert_eq!((page.body.len(), page.truncated), (2049, None));
}

#[tokio::test]
async fn an_endless_body_ends_at_the_limit() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n";
    let plain = [head.as_bytes(), &[b'x'; 60_000]].concat();
    let bomb = [
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n".as_slice(),
        &gzip(&vec![0; 50_000_000]),
    ]
    .concat();
    for bytes in [plain, bomb] {
        let site = Site::always(raw(bytes, Then::Repeat(Duration::ZERO))).await;
        let started = Instant::now();
        let page = fetcher(|_| ()).get(&site.url("/")).await.unwrap();
        assert_eq!(page.truncated, Some(Truncated::Length));
        assert!(page.body.len() >= 1 << 20 && page.body.len() <= 10 << 20, "{}", page.body.len());
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn each_wait_has_its_limit() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
    for (answer, phrase) in [
        (raw("", Then::Hang), "no answer within 200ms"),
        (raw("HTTP/1.1 200 OK\r\nserver:", Then::Hang), "no answer within 200ms"),
        (
            raw("HTTP/1.1 100 Continue\r\n\r\n", Then::Repeat(Duration::from_millis(1))),
            "no answer within 200ms",
        ),
        (raw(format!("{head}some"), Then::Hang), "the answer stalled for 200ms"),
        (
            raw("HTTP/1.1 200 OK\r\n\r\n", Then::Repeat(Duration::from_millis(20))),
            "not done within 400ms",
        ),
    ] {
        let site = Site::always(answer).await;
        let started = Instant::now();
        let error = fetcher(impatient).get(&site.url("/")).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), (phrase, FailureKind::Timeout));
        assert!(started.elapsed() < Duration::from_secs(1), "{phrase}");
    }
}

#[tokio::test]
async fn endless_headers_come_to_an_end() {
    let many = (0..101).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let site = Site::always(raw(format!("HTTP/1.1 200 OK\r\n{many}\r\n"), Then::Hang)).await;
    assert_eq!(failure(&site).await.kind(), FailureKind::Protocol);

    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20));
    let site = Site::always(raw(long, Then::Repeat(Duration::ZERO))).await;
    let error = failure(&site).await;
    assert_eq!(error.to_string(), "the answer is not HTTP: message head is too large");
}

#[tokio::test]
async fn sloppy_headers_are_read_as_browsers_do() {
    let head = "HTTP/1.1 200 OK\r\nfolded: one\r\n two\r\nspaced : x\r\nb\u{1}d: x\r\nno colon\r\n\
        content-length: 2\r\n\r\nok";
    let site = Site::always(raw(head, Then::Next)).await;
    let page = fetcher(|_| ()).get(&site.url("/")).await.unwrap();
    assert_eq!(page.body, "ok");
    assert_eq!(page.headers["spaced"], "x");
}

#[tokio::test]
async fn what_breaks_is_told_from_what_is_no_http() {
    let cases: [(&str, FailureKind); 8] = [
        ("", FailureKind::Broken),
        ("HTTP/1.1 200 OK\r\ncontent-le", FailureKind::Broken),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome", FailureKind::Broken),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel", FailureKind::Broken),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            FailureKind::Broken,
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", FailureKind::Protocol),
        ("HTTP/1.1 abc OK\r\n\r\n", FailureKind::Protocol),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzzz\r\nhello",
            FailureKind::Protocol,
        ),
    ];
    for (bytes, kind) in cases {
        let site = Site::always(raw(bytes, Then::Close)).await;
        let error = failure(&site).await;
        assert_eq!(error.kind(), kind, "{bytes:?}: {error}");
        // Nothing is tried twice behind our back.
        assert_eq!(site.requests().len(), 1, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_and_a_name_that_is_none() {
    let port = closed_port().await;
    let get = async |url: &str| fetcher(|_| ()).get(&self::url(url)).await.unwrap_err();
    let error = get(&format!("http://127.0.0.1:{port}/")).await;
    assert_eq!(error.to_string(), format!("connection refused by 127.0.0.1:{port}"));
    assert_eq!(error.kind(), FailureKind::Connect);
    let error = get(&format!("https://localhost:{port}/")).await;
    assert_eq!(error.to_string(), format!("connection refused by localhost:{port}"));

    for host in ["no-such-host.invalid", "{x}"] {
        let error = get(&format!("http://{host}/")).await;
        assert_eq!(error.to_string(), format!("no such host {host}"));
        assert_eq!(error.kind(), FailureKind::NoSuchHost);
    }
}

#[tokio::test]
async fn forbidden_addresses_are_never_connected_to() {
    let (server, _) = name_server(|name| {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        match name {
            "inside.example" => Reply::Addresses(vec![ip("127.0.0.1")]),
            "mixed.example" => Reply::Addresses(vec![ip("192.0.43.7"), ip("127.0.0.1")]),
            "mapped.example" => Reply::Addresses(vec![ip("::ffff:127.0.0.1")]),
            _ => Reply::Code(3),
        }
    })
    .await;
    let names = Resolver::asking(server);
    let site = Site::always(ok(b"secret")).await;
    let port = site.address.port();
    let urls = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "[::ffff:127.0.0.1]",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "inside.example",
        "mixed.example",
        "mapped.example",
    ]
    .map(|host| url(&format!("http://{host}:{port}/")));

    let closed = CrawlSpec { allow_net: Vec::new(), ..spec() };
    let closed = HttpFetcher::with_resolver(&closed, names.clone()).unwrap();
    for url in &urls {
        let error = closed.get(url).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::ForbiddenAddress, "{url}");
        let hint = " is outside the public internet; --allow-net 127.0.0.0/8 would allow it";
        assert!(error.to_string().ends_with(hint), "{url}: {error}");
    }
    assert_eq!(site.connections(), 0);

    let open = HttpFetcher::with_resolver(&spec(), names).unwrap();
    for url in urls.iter().filter(|url| !url.as_str().contains("mixed")) {
        assert_eq!(open.get(url).await.unwrap().body, "secret", "{url}");
    }
    let error = closed.get(&urls[0]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "127.0.0.1 is outside the public internet; --allow-net 127.0.0.0/8 would allow it"
    );
}

#[tokio::test]
async fn a_silent_name_server_is_not_a_silent_host() {
    let (server, questions) = name_server(|_| Reply::Nothing).await;
    let mut spec = spec();
    impatient(&mut spec);
    let fetcher = HttpFetcher::with_resolver(&spec, Resolver::asking(server)).unwrap();
    let error = fetcher.get(&url("http://slow.example/")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the name server has no answer for slow.example: nothing came within 120ms"
    );
    assert_eq!(error.kind(), FailureKind::Dns);
    assert!(questions.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn a_proxy_sees_what_it_may_and_no_more() {
    let proxy = Site::always(ok(b"by proxy")).await;
    let address = proxy.address;
    let fetcher = fetcher(|spec| {
        spec.allow_net = Vec::new();
        spec.proxy = Some(format!("http://user:word@localhost:{}", address.port()).into());
    });
    let page = fetcher.get(&url("http://site.example/a?b")).await.unwrap();
    assert_eq!((&page.body[..], page.address), (&b"by proxy"[..], None));
    let seen = proxy.requests();
    assert!(seen[0].starts_with("GET http://site.example/a?b HTTP/1.1\r\nhost: site.example\r\n"));
    assert!(seen[0].contains("\r\nproxy-authorization: Basic "));
    let head = String::from_utf8(page.request_head).unwrap();
    assert!(head.starts_with("GET /a?b HTTP/1.1\r\nhost: site.example\r\n"), "{head}");
    assert!(!head.contains("authorization"));

    for host in ["127.0.0.1", "10.0.0.1", "[::1]", "169.254.169.254", "localhost", "x.localhost"] {
        let error = fetcher.get(&url(&format!("http://{host}/"))).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::ForbiddenAddress, "{host}");
    }
    assert_eq!(proxy.requests().len(), 1);
}

#[tokio::test]
async fn a_dead_proxy_is_named() {
    let port = closed_port().await;
    for (scheme, phrase) in [
        ("http", "connection refused by the proxy 127.0.0.1:"),
        ("socks5", "no connection to the proxy 127.0.0.1:"),
        ("socks5h", "no connection to the proxy 127.0.0.1:"),
    ] {
        let fetcher =
            fetcher(|spec| spec.proxy = Some(format!("{scheme}://127.0.0.1:{port}").into()));
        let error = fetcher.get(&url("http://1.2.3.4/")).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Proxy, "{scheme}");
        assert!(error.to_string().starts_with(&format!("{phrase}{port}")), "{scheme}: {error}");
    }
}

/// Runs the test below in a process whose environment names a proxy.
#[tokio::test]
async fn proxy_variables_are_ignored() {
    let (site, proxy) = (Site::always(ok(b"direct")).await, Site::always(ok(b"by proxy")).await);
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("{}::in_an_environment_with_a_proxy", module()), "--ignored"]);
    child.env("TRAWL_TEST_URL", site.url("/").as_str());
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"]
    {
        child.env(name, format!("http://{}", proxy.address));
    }
    let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!((site.connections(), proxy.connections()), (1, 0));
}

#[tokio::test]
#[ignore = "is run by proxy_variables_are_ignored"]
async fn in_an_environment_with_a_proxy() {
    let url = url(&std::env::var("TRAWL_TEST_URL").unwrap());
    assert_eq!(fetcher(|_| ()).get(&url).await.unwrap().body, "direct");
}

/// This module's path without the crate's name, as the test harness has it.
fn module() -> &'static str {
    module_path!().split_once("::").unwrap().1
}

#[tokio::test]
async fn tls_that_is_none() {
    let get = async |answer: Answer, change: fn(&mut CrawlSpec)| {
        let site = Site::always(answer).await;
        let url = url(&format!("https://{}/", site.address));
        fetcher(change).get(&url).await.unwrap_err()
    };
    let alert = get(raw(b"\x15\x03\x03\x00\x02\x02\x28", Then::Close), |_| ()).await;
    assert_eq!(alert.kind(), FailureKind::Tls);
    assert!(alert.to_string().to_lowercase().contains("handshake"), "{alert}");
    let plain = get(raw("HTTP/1.1 400 Bad\r\n\r\n", Then::Close), |_| ()).await;
    assert_eq!(plain.kind(), FailureKind::Tls);
    let closed = get(raw("", Then::Close), |_| ()).await;
    assert_eq!(closed.to_string(), "TLS: the host closed the connection in the handshake");
    let stalled = get(raw("", Then::Hang), impatient).await;
    assert_eq!(stalled.to_string(), "no connection within 150ms");
    assert_eq!(stalled.kind(), FailureKind::Timeout);
}

#[test]
fn a_proxy_that_cannot_be_says_so() {
    let spec = CrawlSpec { proxy: Some("http://".into()), ..spec() };
    let error = HttpFetcher::new(&spec).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("proxy = \"http://\" cannot be: "), "{error}");
}

#[tokio::test]
async fn what_a_dead_proxy_cannot_fetch_another_one_does() {
    let (alive, dead) = (Site::always(ok(b"by proxy")).await, closed_port().await);
    for scheme in ["http", "https", "socks5h"] {
        let fetcher = fetcher(|spec| {
            spec.proxy = Some(format!("{scheme}://u:hunter2@127.0.0.1:{dead}").into());
            spec.proxies = vec![format!("http://{}", alive.address).into()];
        });
        for number in 0..20 {
            let url = url(&format!("http://host{number}.example/"));
            assert_eq!(fetcher.get(&url).await.unwrap().body, "by proxy", "{scheme}");
        }
        let resting = fetcher.0.routes.to("any.example", &[1], Instant::now());
        assert!(resting.is_err(), "{scheme}: the dead one rests");
    }
}

#[tokio::test]
async fn when_no_proxy_is_left_no_host_is_to_blame() {
    let dead = [closed_port().await, closed_port().await];
    let fetcher = fetcher(|spec| {
        spec.proxies = dead.map(|port| format!("http://u:hunter2@127.0.0.1:{port}").into()).into();
    });
    for phrase in ["connection refused by the proxy 127.0.0.1:", "all proxies rest"] {
        let mut error = None;
        for _ in 0..3 {
            error = fetcher.get(&url("http://host.example/")).await.err();
        }
        let error = error.unwrap();
        assert_eq!(error.kind(), FailureKind::Proxy);
        assert!(error.to_string().starts_with(phrase), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_host_that_a_proxy_cannot_reach_is_not_the_proxys_failure() {
    let kind_of = async |spec: &dyn Fn(&mut CrawlSpec), to: &str| {
        let fetcher = fetcher(|it| spec(it));
        let mut kind = None;
        for _ in 0..5 {
            kind = Some(fetcher.get(&url(to)).await.unwrap_err().kind());
        }
        let rests = fetcher.0.routes.to("any.example", &[], Instant::now()).is_err();
        (kind.unwrap(), rests)
    };
    let (host, proxys) = ((FailureKind::Connect, false), (FailureKind::Proxy, true));
    for (status, blamed) in [("502 Bad Gateway", host), ("407 Who", proxys)] {
        let proxy = Site::always(raw(format!("HTTP/1.1 {status}\r\n\r\n"), Then::Close)).await;
        let by =
            |spec: &mut CrawlSpec| spec.proxy = Some(format!("http://{}", proxy.address).into());
        assert_eq!(kind_of(&by, "https://host.example/").await, blamed, "{status}");
    }
    // A proxy that is there, and a host that says nothing through it.
    let proxy = Site::always(raw("", Then::Hang)).await;
    let by = |spec: &mut CrawlSpec| {
        impatient(spec);
        spec.proxy = Some(format!("http://{}", proxy.address).into());
    };
    let silent = (FailureKind::Timeout, false);
    assert_eq!(kind_of(&by, "https://host.example/").await, silent);
    assert_eq!(kind_of(&by, "http://host.example/").await, silent);
    // A host that sends what is no HTTP, and one that breaks off.
    for (sent, kind) in [("SSH-2.0-x\r\n", FailureKind::Protocol), ("", FailureKind::Broken)] {
        let proxy = Site::always(raw(sent, Then::Close)).await;
        let by =
            |spec: &mut CrawlSpec| spec.proxy = Some(format!("http://{}", proxy.address).into());
        assert_eq!(kind_of(&by, "http://host.example/").await, (kind, false));
    }
    for code in [1, 3, 4, 5, 6] {
        let (proxy, _) = socks_proxy(code, proxy.address).await;
        let by = |spec: &mut CrawlSpec| spec.proxy = Some(format!("socks5h://{proxy}").into());
        assert_eq!(kind_of(&by, "http://host.example/").await, host, "{code}");
    }
    let by = |spec: &mut CrawlSpec| spec.proxy = Some(format!("socks5://{}", proxy.address).into());
    let no_name = (FailureKind::NoSuchHost, false);
    assert_eq!(kind_of(&by, "http://no-such-host.invalid/").await, no_name);
    let by = |spec: &mut CrawlSpec| spec.proxy = Some("http://no-such-host.invalid:1".into());
    assert_eq!(kind_of(&by, "http://host.example/").await, proxys);
}

/// Fetches from hosts of different sites, one after the other, by one proxy that treats all
/// alike. Returns what came of each.
async fn by_one_proxy(
    answer: Answer,
    scheme: &str,
    change: fn(&mut CrawlSpec),
) -> Vec<Result<u16, FailureKind>> {
    let proxy = Site::always(answer).await;
    let fetcher = fetcher(|spec| {
        change(spec);
        spec.proxy = Some(format!("http://{}", proxy.address).into());
    });
    let mut came = Vec::new();
    for number in 0..5 {
        let page = fetcher.get(&url(&format!("{scheme}://host{number}.example/"))).await;
        came.push(page.map(|page| page.status).map_err(|error| error.kind()));
    }
    assert!(fetcher.0.routes.to("any.example", &[], Instant::now()).is_err(), "it rests");
    came
}

#[tokio::test]
async fn a_proxy_that_is_silent_for_all_rests_and_its_hosts_are_not_to_blame() {
    let (host, proxys) = (Err(FailureKind::Timeout), Err(FailureKind::Proxy));
    for scheme in ["http", "https"] {
        let came = by_one_proxy(raw("", Then::Hang), scheme, impatient).await;
        assert_eq!(came, [host, host, proxys, proxys, proxys], "{scheme}");
    }
}

#[tokio::test]
async fn what_a_silent_proxy_cannot_fetch_another_one_does() {
    let (silent, alive) =
        (Site::always(raw("", Then::Hang)).await, Site::always(ok(b"by proxy")).await);
    let fetcher = fetcher(|spec| {
        spec.read_timeout = Span::secs(1);
        spec.proxies = [&silent, &alive].map(|it| format!("http://{}", it.address).into()).into();
    });
    let mut failed = 0;
    for number in 0..40 {
        match fetcher.get(&url(&format!("http://host{number}.example/"))).await {
            Ok(page) => assert_eq!(page.body, "by proxy"),
            Err(error) => {
                assert_eq!(error.kind(), FailureKind::Timeout);
                failed += 1;
            }
        }
    }
    assert_eq!((failed, silent.requests().len()), (2, 3));
}

#[tokio::test]
async fn what_one_host_can_do_is_the_proxys_failure_from_the_second_host_on() {
    let proxys = Err(FailureKind::Proxy);
    let refused = answer("407 Who", &[], b"");
    let (garbage, end) = (raw("SSH-2.0-x\r\n", Then::Close), raw("", Then::Close));
    for (answer, first) in
        [(refused, Ok(407)), (garbage, Err(FailureKind::Protocol)), (end, Err(FailureKind::Broken))]
    {
        let came = by_one_proxy(answer, "http", |_| ()).await;
        assert_eq!(came, [first, proxys, proxys, proxys, proxys]);
    }
}

#[tokio::test]
async fn a_socks_proxy_carries_pages_and_resolves_what_it_should() {
    let site = Site::always(ok(b"by proxy")).await;
    let (proxy, asked) = socks_proxy(0, site.address).await;
    let fetch = async |scheme: &str, host: &str| {
        let fetcher = fetcher(|spec| spec.proxy = Some(format!("{scheme}://{proxy}").into()));
        fetcher.get(&url(&format!("http://{host}/"))).await.map(|page| page.body)
    };
    assert_eq!(fetch("socks5h", "host.example").await.unwrap(), "by proxy");
    assert_eq!(fetch("socks5", "localhost").await.unwrap(), "by proxy");
    assert_eq!(*asked.lock().unwrap(), ["host.example", "an address of kind 1"]);
}

#[tokio::test]
async fn a_socks_proxy_is_told_the_user_and_the_word_of_its_url() {
    let site = Site::always(ok(b"by proxy")).await;
    let (proxy, asked) = socks_proxy(0, site.address).await;
    let by = format!("socks5h://me:w%40rd%20%C3%A4@{proxy}");
    let fetcher = fetcher(|spec| spec.proxy = Some(by.into()));
    let page = fetcher.get(&url("http://host.example/")).await.unwrap();
    assert_eq!(page.body, "by proxy");
    assert_eq!(*asked.lock().unwrap(), ["me:w@rd \u{e4}", "host.example"]);
    // Neither the site nor the record is.
    let head = String::from_utf8(page.request_head).unwrap();
    assert!(!head.contains("w@rd") && !site.requests()[0].contains("w@rd"));
}

/// reqwest would fetch without it, as if none had been asked for.
#[tokio::test]
async fn a_proxy_that_the_client_cannot_read_is_refused() {
    for proxy in ["socks5h://{proxy}:1080", "socks5://b\u{fc}cher.example", "socks5:x", "http://"] {
        let spec = CrawlSpec { proxies: vec![proxy.into()], ..spec() };
        let error = HttpFetcher::new(&spec).err().expect(proxy).to_string();
        assert!(error.contains("proxy = ") && error.contains(proxy), "{error}");
    }
    // Whatever a user and a word may have, what was not refused is a proxy.
    let site = Site::always(ok(b"by proxy")).await;
    let ends_a_host = |char: &char| r"/\?#".contains(*char);
    for char in (' '..='~').chain(['\u{e4}', '\u{1f600}']).filter(|char| !ends_a_host(char)) {
        let spec = CrawlSpec {
            proxy: Some(format!("http://u{char}:w{char}@{}/", site.address).into()),
            ..spec()
        };
        let Ok(fetcher) = HttpFetcher::new(&spec) else { continue };
        let page = fetcher.get(&url("http://host.invalid/")).await;
        assert_eq!(page.map(|page| page.body).unwrap(), "by proxy", "{char:?}");
    }
}

#[tokio::test]
async fn the_proxys_own_name_is_no_way_in() {
    let (server, _) = name_server(|_| Reply::Addresses(vec!["127.0.0.1".parse().unwrap()])).await;
    let names = Resolver::asking(server);
    let site = Site::always(ok(b"secret")).await;
    let (socks, asked) = socks_proxy(0, site.address).await;
    let spec = CrawlSpec {
        allow_net: Vec::new(),
        proxy: Some(format!("socks5://proxy.example:{}", socks.port()).into()),
        ..spec()
    };
    let fetcher = HttpFetcher::with_resolver(&spec, names).unwrap();
    for host in ["proxy.example", "PROXY.example"] {
        let error = fetcher.get(&url(&format!("http://{host}/"))).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::ForbiddenAddress, "{error}");
    }
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn secrets_go_to_their_host_and_not_into_the_record() {
    let site =
        Site::serve(|_| answer("200 OK", &[("set-cookie", "sid=s3cret; Path=/")], b"")).await;
    let rules = format!(
        r#"{{"cookies": true, "allow_net": ["127.0.0.0/8"],
            "headers": [{{"hosts": ["127.0.0.1:{0}"], "name": "X-Token", "value": "t0ken"}},
                        {{"hosts": ["*"], "name": "Accept-Language", "value": "de"}}],
            "credentials": [{{"hosts": ["127.0.0.1:{0}"], "insecure": true,
                              "basic": {{"user": "me", "password": "w0rd"}}}}]}}"#,
        site.address.port()
    );
    let spec = CrawlSpec::from_json(&rules).unwrap();
    let fetcher = HttpFetcher::new(&spec).unwrap();
    let first = fetcher.get(&site.url("/")).await.unwrap();
    let second = fetcher.get(&site.url("/")).await.unwrap();
    let sent = site.requests();
    for line in ["\r\nx-token: t0ken\r\n", "\r\nauthorization: Basic bWU6dzByZA==\r\n"] {
        assert!(sent.iter().all(|head| head.contains(line)), "{sent:?}");
    }
    assert!(!sent[0].contains("cookie:") && sent[1].contains("\r\ncookie: sid=s3cret\r\n"));
    let head = |page: &Page| String::from_utf8(page.request_head.clone()).unwrap();
    let redacted = sent[1]
        .replace("t0ken", REDACTED)
        .replace("Basic bWU6dzByZA==", REDACTED)
        .replace("sid=s3cret", REDACTED);
    assert_eq!(head(&second), redacted);
    assert!(head(&first).contains("\r\naccept-language: de\r\n"));

    // Another port is another host for the rules, but not for cookies (RFC 6265, 8.5).
    let other = Site::always(ok(b"")).await;
    fetcher.get(&other.url("/")).await.unwrap();
    let seen = other.requests();
    assert!(!seen[0].contains("t0ken") && !seen[0].contains("authorization"), "{seen:?}");
    // Another crawl knows nothing of it.
    HttpFetcher::new(&spec).unwrap().get(&site.url("/")).await.unwrap();
    assert!(!site.requests()[2].contains("cookie:"));
}
